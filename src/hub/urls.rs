//! Links in notifications and apps: absolute, and of a scheme that cannot run code where they are shown (contract §6).

use oriva_hub_actors::model::Invalid;
use url::Url;

const MAX_CHARACTERS: usize = 2048;
/// Schemes that execute their content, or read the reader's disk.
const DANGEROUS: [&str; 4] = ["javascript", "data", "vbscript", "file"];

/// Parses the URL of an action: any scheme, deep links too, except dangerous ones in any spelling.
///
/// # Errors
/// [`Invalid`] with the rule.
pub fn action_url(text: &str) -> Result<String, Invalid> {
    let is_safe = |url: &Url| schemes(url).iter().all(|scheme| !DANGEROUS.contains(&scheme.as_str()));
    parse(text).filter(is_safe).map(|_| text.to_owned()).ok_or_else(|| {
        Invalid(format!(
            "must be an absolute URL of at most {MAX_CHARACTERS} characters, without blanks, and not javascript:, data:, vbscript: or file:"
        ))
    })
}

/// A URL's scheme, and those within it where it wraps another: `view-source:javascript:…`.
fn schemes(url: &Url) -> Vec<String> {
    let mut schemes = vec![url.scheme().to_owned()];
    let mut inner = url.cannot_be_a_base().then(|| Url::parse(url.path()).ok()).flatten();
    while let Some(url) = inner {
        schemes.push(url.scheme().to_owned());
        inner = url.cannot_be_a_base().then(|| Url::parse(url.path()).ok()).flatten();
    }
    schemes
}

/// Parses the URL of an image: http or https.
///
/// # Errors
/// [`Invalid`] with the rule.
pub fn image_url(text: &str) -> Result<String, Invalid> {
    let is_web = |url: &Url| ["http", "https"].contains(&url.scheme()) && url.has_host();
    parse(text).filter(is_web).map(|_| text.to_owned()).ok_or_else(|| {
        Invalid(format!("must be an absolute http or https URL of at most {MAX_CHARACTERS} characters, without blanks"))
    })
}

/// Browsers remove blanks and control characters, and so find a scheme where a reader sees none. Text with any of them
/// is refused.
fn parse(text: &str) -> Option<Url> {
    let is_odd = |c: char| c.is_control() || c.is_whitespace();
    if text.chars().count() > MAX_CHARACTERS || text.chars().any(is_odd) {
        return None;
    }
    Url::parse(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dangerous_schemes_are_refused_however_they_are_spelled() {
        for bad in [
            "javascript:alert(1)",
            "JavaScript:alert(1)",
            " javascript:alert(1)",
            "\u{1}javascript:alert(1)",
            "java\tscript:alert(1)",
            "java\nscript:alert(1)",
            "javascript\r\n:alert(1)",
            "\u{a0}javascript:alert(1)",
            "\u{feff}javascript:alert(1)",
            "data:text/html,<script>",
            "DATA:text/html;base64,xx",
            "vbscript:x",
            "VbScript:x",
            "file:///etc/passwd",
            "FILE:///c:/",
            "view-source:javascript:alert(1)",
            "feed:jar:JAVASCRIPT:alert(1)",
        ] {
            assert!(action_url(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_link_is_absolute() {
        for good in
            ["https://oriva.example/a?b=c#d", "myapp://session/1", "mailto:a@b.example", "tel:+123", "oriva:open"]
        {
            assert_eq!(action_url(good).as_deref(), Ok(good));
        }
        let long = format!("https://x.example/{}", "a".repeat(2048));
        for bad in ["", "/relative", "relative", "//host/path", "https://", "https://a b/", "?x", &long] {
            assert!(action_url(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_image_is_on_the_web() {
        assert!(image_url("https://cdn.example/i.png").is_ok() && image_url("http://cdn.example/i.png").is_ok());
        for bad in
            ["myapp://i.png", "ftp://cdn.example/i.png", "javascript:1", "data:image/png;base64,x", "//cdn/i.png"]
        {
            assert!(image_url(bad).is_err(), "{bad:?}");
        }
    }
}
