//! Addresses to which webhooks may go: public ones, and those that the configuration adds (contract §7). The address
//! that is dialled is checked, so no name and no spelling gets around it.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use oriva_hub_actors::model::Invalid;
use url::{Host, Url};

const MAX_URL_CHARACTERS: usize = 2048;

/// Special-purpose networks (IANA registries of RFC 6890), and the address of cloud metadata services.
const CLOSED_V4: [(Ipv4Addr, u8); 16] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(168, 63, 129, 16), 32),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];
/// In IPv6 only global unicast is open, without the parts that wrap IPv4 (6to4, Teredo) or are for documentation.
/// Mapped, compatible and translated IPv4 addresses lie outside of it.
const OPEN_V6: &str = "2000::/3";
const CLOSED_V6: [&str; 4] = ["2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"];

/// The rule, with the configured exceptions.
#[derive(Debug, Clone)]
pub struct Guard {
    allow_http: bool,
    opened: Vec<IpNet>,
    closed_v4: Vec<Ipv4Net>,
    open_v6: Ipv6Net,
    closed_v6: Vec<Ipv6Net>,
}

impl Guard {
    /// `opened` are networks, for example `10.1.0.0/16`. Invalid ones are ignored.
    #[must_use]
    pub fn new(allow_http: bool, opened: &[String]) -> Self {
        let v6 = |text: &str| text.parse::<Ipv6Net>().unwrap_or_default();
        Self {
            allow_http,
            opened: opened.iter().filter_map(|text| text.parse().ok()).collect(),
            closed_v4: CLOSED_V4.iter().filter_map(|(address, length)| Ipv4Net::new(*address, *length).ok()).collect(),
            open_v6: v6(OPEN_V6),
            closed_v6: CLOSED_V6.iter().map(|text| v6(text)).collect(),
        }
    }

    /// Whether an address may be dialled over TLS.
    #[must_use]
    pub fn permits(&self, address: IpAddr) -> bool {
        if self.opened.iter().any(|network| network.contains(&address)) {
            return true;
        }
        match address {
            IpAddr::V4(address) => !self.closed_v4.iter().any(|network| network.contains(&address)),
            IpAddr::V6(address) => {
                self.open_v6.contains(&address) && !self.closed_v6.iter().any(|network| network.contains(&address))
            }
        }
    }

    /// Whether an address may be dialled without TLS: only loopback, if the configuration allows it.
    #[must_use]
    pub fn permits_plain(&self, address: IpAddr) -> bool {
        self.allow_http && address.is_loopback()
    }

    /// Checks a webhook's URL when it is registered. An address in it is checked now, a name when it is dialled.
    ///
    /// # Errors
    /// [`Invalid`] with the rule.
    pub fn webhook_url(&self, text: &str) -> Result<String, Invalid> {
        let invalid = |rule: &str| Err(Invalid(rule.to_owned()));
        let is_odd = |c: char| c.is_control() || c.is_whitespace();
        if text.chars().count() > MAX_URL_CHARACTERS || text.chars().any(is_odd) {
            return invalid("must be a URL of at most 2048 characters, without blanks");
        }
        // The parser also takes `https:host` and `https:\\host`, which others do not read as it does.
        if !text.split_once("://").is_some_and(|(scheme, _)| scheme.bytes().all(|byte| byte.is_ascii_alphabetic())) {
            return invalid("must be an absolute https URL");
        }
        let Ok(url) = Url::parse(text) else { return invalid("must be an absolute https URL") };
        if !url.username().is_empty() || url.password().is_some() {
            return invalid("must not contain credentials");
        }
        if url.fragment().is_some() {
            return invalid("must not have a fragment");
        }
        match (url.scheme(), url.host()) {
            ("https", Some(_)) => {}
            ("http", Some(host)) if self.allow_http && is_loopback(&host) => return Ok(text.to_owned()),
            ("http", _) if self.allow_http => return invalid("must be https, or http to a loopback address"),
            ("http", _) => {
                return invalid("must be an https URL (webhooks.allow_http opens http to this machine, for trying)");
            }
            _ => return invalid("must be an https URL"),
        }
        if literal_address(&url).is_some_and(|address| !self.permits(address)) {
            return invalid("must not name a private, loopback, link-local or otherwise reserved address");
        }
        Ok(text.to_owned())
    }
}

/// The address in a URL, in any spelling: the URL parser has read octal, hexadecimal and short forms.
pub(super) fn literal_address(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(address) => Some(address.into()),
        Host::Ipv6(address) => Some(address.into()),
        Host::Domain(_) => None,
    }
}

fn is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
        Host::Domain(name) => *name == "localhost",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn guard() -> Guard {
        Guard::new(false, &[])
    }

    #[test]
    fn reserved_addresses_are_closed_and_their_neighbours_open() {
        for closed in [
            "0.0.0.0",
            "0.255.255.255",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.100.100.200",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.169.254",
            "168.63.129.16",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:8.8.8.8",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "::8.8.8.8",
            "64:ff9b::808:808",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:0:4136:e378::1",
            "2001:10::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "2002:808:808::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "4000::1",
        ] {
            assert!(!guard().permits(closed.parse().unwrap()), "{closed}");
        }
        for open in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.0.1",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "192.169.0.0",
            "223.255.255.255",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "2a00:1450::1",
        ] {
            assert!(guard().permits(open.parse().unwrap()), "{open}");
        }
    }

    #[test]
    fn configuration_opens_networks_and_nothing_beside_them() {
        let guard = Guard::new(false, &["10.1.0.0/16".to_owned(), "fd00::/8".to_owned()]);
        assert!(guard.permits("10.1.2.3".parse().unwrap()) && guard.permits("fd00::1".parse().unwrap()));
        assert!(!guard.permits("10.2.0.1".parse().unwrap()) && !guard.permits("::ffff:10.1.2.3".parse().unwrap()));
    }

    #[test]
    fn a_url_is_https_and_names_no_reserved_address() {
        let long = format!("https://example.com/{}", "a".repeat(2048));
        for bad in [
            "",
            "example.com",
            "/x",
            "http://example.com/",
            "ftp://example.com/",
            "https://",
            "https://u:p@example.com/",
            "https://u@example.com/",
            "https://example.com/#f",
            "https://example.com/a b",
            "\u{1}https://example.com/",
            "https://127.0.0.1/",
            "https://127.1/",
            "https://2130706433/",
            "https://0x7f000001/",
            "https://0177.0.0.1/",
            "https://0x7f.1/",
            "https://10.0.0.1:8443/x",
            "https://169.254.169.254/latest",
            "https://[::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://[64:ff9b::a00:1]/",
            "https://0/",
            "https://①②⑦.⓪.⓪.①/",
            &long,
        ] {
            assert!(guard().webhook_url(bad).is_err(), "{bad:?}");
        }
        for good in ["https://example.com/hook?x=1", "https://hooks.example.com:8443/", "https://8.8.8.8/x"] {
            assert_eq!(guard().webhook_url(good).as_deref(), Ok(good));
        }
    }

    #[test]
    fn http_is_for_loopback_where_it_is_allowed() {
        let guard = Guard::new(true, &[]);
        assert!(guard.webhook_url("http://127.0.0.1:9000/x").is_ok() && guard.webhook_url("http://localhost/").is_ok());
        assert!(guard.webhook_url("http://10.0.0.1/").is_err() && guard.webhook_url("http://example.com/").is_err());
        assert!(guard.permits_plain("127.0.0.1".parse().unwrap()) && !guard.permits_plain("8.8.8.8".parse().unwrap()));
        assert!(!Guard::new(false, &[]).permits_plain("127.0.0.1".parse().unwrap()));
    }

    proptest! {
        /// However an IPv4 address is wrapped or written, a URL gets no further than the address itself.
        #[test]
        fn no_spelling_gets_around(bits in any::<u32>(), form in 0_usize..6) {
            let address = Ipv4Addr::from(bits);
            let [a, b, c, d] = address.octets();
            let host = match form {
                0 => address.to_string(),
                1 => bits.to_string(),
                2 => format!("{bits:#x}"),
                3 => format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
                4 => format!("{a:#x}.{b}.{}", u16::from_be_bytes([c, d])),
                _ => format!("{a}.{}", bits & 0x00ff_ffff),
            };
            let accepted = guard().webhook_url(&format!("https://{host}/")).is_ok();
            prop_assert_eq!(accepted, guard().permits(address.into()), "{}", host);
            for wrapped in [format!("[::ffff:{address}]"), format!("[::{address}]"), format!("[64:ff9b::{address}]")] {
                prop_assert!(guard().webhook_url(&format!("https://{wrapped}/")).is_err(), "{}", wrapped);
            }
            let [hi, lo] = [bits >> 16, bits & 0xffff];
            let six_to_four = format!("2002:{hi:x}:{lo:x}::1");
            prop_assert!(!guard().permits(six_to_four.parse().unwrap()));
        }
    }
}
