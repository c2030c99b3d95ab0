//! Where a request came from, behind proxies too: `X-Forwarded-For` is believed as far as those who wrote it are.

use std::net::{IpAddr, SocketAddr};

use actix_web::{HttpRequest, web::Data};
use ipnet::IpNet;

/// Proxies whose `X-Forwarded-For` counts (`server.trusted_proxies`).
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// `networks` such as `10.0.0.0/8`; text that is none trusts nobody.
    #[must_use]
    pub fn new(networks: &[String]) -> Self {
        Self(networks.iter().filter_map(|text| text.parse().ok()).collect())
    }

    fn trust(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The client of a request: each proxy adds whom it heard the request from at the list's end, so the list is read
    /// from there for as long as those who wrote it are trusted. `forwarded` is the list in its order.
    fn client<'a>(&self, peer: IpAddr, forwarded: impl DoubleEndedIterator<Item = &'a str>) -> IpAddr {
        let mut client = peer.to_canonical();
        for hop in forwarded.rev() {
            if !self.trust(client) {
                break;
            }
            match address(hop) {
                Some(address) => client = address,
                None => break,
            }
        }
        client
    }
}

/// Where a request came from.
pub(super) fn client_address(request: &HttpRequest) -> Option<IpAddr> {
    let peer = request.peer_addr()?.ip();
    let forwarded: Vec<&str> =
        request.headers().get_all("x-forwarded-for").filter_map(|value| value.to_str().ok()).collect();
    let Some(proxies) = request.app_data::<Data<TrustedProxies>>() else { return Some(peer.to_canonical()) };
    Some(proxies.client(peer, forwarded.iter().flat_map(|list| list.split(','))))
}

/// An address as proxies write it: some add the port.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.parse().or_else(|_| text.parse().map(|address: SocketAddr| address.ip()));
    bare.ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, forwarded: &[&str]) -> String {
        let proxies = TrustedProxies::new(&["10.0.0.0/8".to_owned(), "fd00::/8".to_owned()]);
        proxies.client(peer.parse().unwrap(), forwarded.iter().copied()).to_string()
    }

    #[test]
    fn a_list_is_believed_as_far_as_its_writers_are() {
        assert_eq!(client("203.0.113.9", &["198.51.100.1"]), "203.0.113.9", "a stranger may write what it likes");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(
            client("10.0.0.1", &["1.2.3.4", " 198.51.100.1"]),
            "198.51.100.1",
            "who wrote 1.2.3.4 is a stranger"
        );
        assert_eq!(client("10.0.0.1", &["198.51.100.1", "10.7.7.7"]), "198.51.100.1", "two proxies");
        assert_eq!(client("10.0.0.1", &["10.9.9.9"]), "10.9.9.9", "from inside");
    }

    #[test]
    fn addresses_have_several_spellings() {
        assert_eq!(client("::ffff:10.0.0.1", &["198.51.100.1:4711"]), "198.51.100.1");
        assert_eq!(client("fd00::1", &["[2001:db8::1]:443"]), "2001:db8::1");
        assert_eq!(client("10.0.0.1", &["unknown"]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["198.51.100.1", ""]), "10.0.0.1");
    }
}
