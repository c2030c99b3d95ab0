//! Titles, bodies and labels are plain text (contract §6): tags and scripts are taken out, everything else stays exactly
//! as it was written.
//!
//! An HTML tokenizer says where the tags are, and only those bytes go. So `5 &lt; 6` and `I <3 you` come back as they
//! were, which no sanitiser does that parses and writes anew.

use html5gum::{DefaultEmitter, State, StringReader, Token, Tokenizer};

/// Whether text may go over several lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lines {
    /// Line breaks become spaces.
    One,
    /// Line breaks stay.
    Many,
}

/// Taking tags out may leave text that reads as a tag: `<<b>script>`. So it is done until nothing is found, and after this
/// many rounds, which nobody writes in good faith, what opens a tag goes by itself.
const ROUNDS: usize = 4;
/// Elements whose content is not text for a reader.
const WITHOUT_CONTENT: [&[u8]; 2] = [b"script", b"style"];
/// The elements of HTML, obsolete ones that browsers still know, and the roots of SVG and MathML.
const ELEMENTS: [&str; 150] = [
    "a",
    "abbr",
    "acronym",
    "address",
    "applet",
    "area",
    "article",
    "aside",
    "audio",
    "b",
    "base",
    "basefont",
    "bdi",
    "bdo",
    "bgsound",
    "big",
    "blink",
    "blockquote",
    "body",
    "br",
    "button",
    "canvas",
    "caption",
    "center",
    "cite",
    "code",
    "col",
    "colgroup",
    "command",
    "content",
    "data",
    "datalist",
    "dd",
    "del",
    "details",
    "dfn",
    "dialog",
    "dir",
    "div",
    "dl",
    "dt",
    "element",
    "em",
    "embed",
    "fieldset",
    "figcaption",
    "figure",
    "font",
    "footer",
    "form",
    "frame",
    "frameset",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "head",
    "header",
    "hgroup",
    "hr",
    "html",
    "i",
    "iframe",
    "image",
    "img",
    "input",
    "ins",
    "isindex",
    "kbd",
    "keygen",
    "label",
    "layer",
    "legend",
    "li",
    "link",
    "listing",
    "main",
    "map",
    "mark",
    "marquee",
    "math",
    "menu",
    "menuitem",
    "meta",
    "meter",
    "multicol",
    "nav",
    "nextid",
    "nobr",
    "noembed",
    "noframes",
    "noscript",
    "object",
    "ol",
    "optgroup",
    "option",
    "output",
    "p",
    "param",
    "picture",
    "plaintext",
    "portal",
    "pre",
    "progress",
    "q",
    "rb",
    "rp",
    "rt",
    "rtc",
    "ruby",
    "s",
    "samp",
    "script",
    "search",
    "section",
    "select",
    "shadow",
    "slot",
    "small",
    "source",
    "spacer",
    "span",
    "strike",
    "strong",
    "style",
    "sub",
    "summary",
    "sup",
    "svg",
    "table",
    "tbody",
    "td",
    "template",
    "textarea",
    "tfoot",
    "th",
    "thead",
    "time",
    "title",
    "tr",
    "track",
    "tt",
    "u",
    "ul",
    "var",
    "video",
    "wbr",
    "xmp",
];
/// Stands for a `<` that begins no tag while the tokenizer looks; it is not in the text, being a control character.
const NO_TAG: char = '\u{1}';

/// The text without tags, scripts and control characters. Line breaks and tabs stay where many lines may be.
#[must_use]
pub fn plain_text(text: &str, lines: Lines) -> String {
    let one_line = |c: char| if lines == Lines::One && matches!(c, '\n' | '\t') { ' ' } else { c };
    let stays = |c: &char| !c.is_control() || matches!(c, '\n' | '\t');
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut text: String = text.chars().map(one_line).filter(stays).collect();
    for _ in 0..ROUNDS {
        match without_tags(&text) {
            Some(shorter) => text = shorter,
            None => return text,
        }
    }
    // What opens a tag goes by itself, and what stays may open one with what comes after it.
    for _ in 0..ROUNDS {
        let marked = mark(&text);
        if !marked.contains('<') {
            return text;
        }
        text = marked.replace('<', "").replace(NO_TAG, "<");
    }
    text.replace('<', "")
}

/// The text without the tags, comments and scripts in it; `None` where there are none.
fn without_tags(text: &str) -> Option<String> {
    if !text.contains('<') {
        return None;
    }
    let marked = mark(text);
    let mut kept = String::with_capacity(text.len());
    let mut position = 0;
    let mut swallowing: Option<Vec<u8>> = None;
    let mut tokens = tokenizer(&marked);
    while let Some(Ok(token)) = tokens.next() {
        let (span, opens, closes) = match &token {
            Token::StartTag(tag) => (tag.span, Some(&tag.name), None),
            Token::EndTag(tag) => (tag.span, None, Some(&tag.name)),
            Token::Comment(comment) => (comment.span, None, None),
            Token::Doctype(doctype) => (doctype.span, None, None),
            Token::String(_) | Token::Error(_) => continue,
        };
        let Some(before) = marked.get(position..span.start) else { continue };
        if swallowing.is_none() {
            kept.push_str(before);
        }
        position = span.end;
        match (&swallowing, opens, closes) {
            (None, Some(name), _) if WITHOUT_CONTENT.contains(&&name[..]) => {
                // What is within is no HTML, until its own end tag.
                tokens.set_state(if name[..] == *b"script" { State::ScriptData } else { State::RawText });
                swallowing = Some(name.to_vec());
            }
            (Some(open), _, Some(name)) if *open == name[..] => swallowing = None,
            _ => {}
        }
    }
    let rest = if swallowing.is_none() { marked.get(position..).unwrap_or_default() } else { "" };
    let disarmed = disarm(rest);
    if position == 0 && disarmed.is_none() {
        return None;
    }
    kept.push_str(disarmed.as_deref().unwrap_or(rest));
    Some(kept.replace(NO_TAG, "<"))
}

/// A tag that never ends is no tag here, but the next `>` of a page that it is put into would end it. Where it is more
/// than a word behind a `<`, that sign goes, and the words stay.
fn disarm(rest: &str) -> Option<String> {
    // Nothing in the rest is a whole tag, so the first sign begins what never ends.
    let (before, open) = rest.split_once('<')?;
    let name = open.trim_start_matches('/').split(|c: char| c.is_whitespace() || c == '/').next().unwrap_or("");
    let is_known = WITHOUT_CONTENT.iter().any(|known| known.eq_ignore_ascii_case(name.as_bytes()));
    (is_known || open.contains('=')).then(|| format!("{before}{open}"))
}

/// Elements whose content a browser does not read as HTML (`title`, `textarea`) are read as any other: a tag in them goes
/// too.
fn tokenizer(text: &str) -> Tokenizer<StringReader<'_>, DefaultEmitter<usize>> {
    Tokenizer::new_with_emitter(text, DefaultEmitter::new_with_span())
}

/// Whether a browser would make something of what stands behind a `<`: an element of HTML, or any name with an attribute,
/// which may be a script. `<bob@example.com>`, `<String>` and `x<y and y>z` are neither.
fn is_tag(text: &str) -> bool {
    let name = text.split(|c: char| c.is_whitespace() || matches!(c, '/' | '>')).next().unwrap_or_default();
    let has_attribute = || text.split('>').next().is_some_and(|tag| tag.contains('='));
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && (ELEMENTS.iter().any(|element| element.eq_ignore_ascii_case(name)) || has_attribute())
}

/// The tokenizer takes `</3`, `<?` and `<!` for comments, and any name for a tag. A reader does not, unless it is one.
fn mark(text: &str) -> String {
    let mut marked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        let (before, from) = rest.split_at(at);
        marked.push_str(before);
        let after = &from[1..];
        let is_declaration = |text: &str| {
            text.starts_with("--") || text.get(..7).is_some_and(|word| word.eq_ignore_ascii_case("doctype"))
        };
        let begins_one = is_tag(after)
            || after.strip_prefix('/').is_some_and(is_tag)
            || after.strip_prefix('!').is_some_and(is_declaration);
        marked.push(if begins_one { '<' } else { NO_TAG });
        rest = after;
    }
    marked.push_str(rest);
    marked
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain(text: &str) -> String {
        plain_text(text, Lines::Many)
    }

    #[test]
    fn what_is_no_tag_stays_as_written() {
        for text in [
            "Tom & Jerry < 3",
            "5 &lt; 6",
            "I <3 you",
            "I </3 you > me",
            "a < b > c",
            "x <= y && y >= z",
            "&amp;&#60;b&#62;",
            "R&D \"quoted\" 'single'",
            "\u{1f600} 你好 \u{200d}é",
            "what <? ever <! ever",
            "1 <2> 3",
            "a <",
            "if a <b then",
            "two\nlines\tand a tab",
            "Bob <bob@example.com> wrote",
            "List<String> items",
            "if x<y and y>z",
            "see <https://example.com/a>",
            "Map<K, List<V>> </end>",
        ] {
            assert_eq!(plain(text), text);
        }
    }

    #[test]
    fn tags_comments_and_scripts_go() {
        for (text, expected) in [
            ("<b>Hi</b><script>x</script>", "Hi"),
            ("<SCRIPT SRC=//x></SCRIPT>Hi", "Hi"),
            ("<style>b{}</style>Hi", "Hi"),
            ("Hi<script>never closed", "Hi"),
            ("a<!-- comment -->b", "ab"),
            ("<!DOCTYPE html>Hi", "Hi"),
            ("<img src=x onerror=alert(1)>Hi", "Hi"),
            ("<unheard-of onclick=alert(1)>Hi</unheard-of>", "Hi</unheard-of>"),
            ("<x/onclick=\"a>b\">Hi", "Hi"),
            ("<a href=\"x>y\">Hi</a>", "Hi"),
            ("<<b>script>alert(1)<</b>/script>", ""),
            ("<scr<script></script>ipt>x</script>", ""),
            ("<title><b>Hi</b></title>", "Hi"),
            ("<script>if (a<b) \"<!--\"</script>Hi", "Hi"),
            ("<style>a<b</style>Hi", "Hi"),
            ("</script>--><title><title><title><<title><title>", "--><"),
            ("</<svg !=\"><a>", "/svg !=\">"),
            ("a <b and c <d", "a <b and c <d"),
            ("<textarea><img src=x></textarea>Hi", "Hi"),
            ("Tom &amp; <i>Jerry</i> < 3", "Tom &amp; Jerry < 3"),
            ("5 &lt; <b>6</b>", "5 &lt; 6"),
            ("<b", "<b"),
            ("hi <img src=x onerror=alert(1) ", "hi img src=x onerror=alert(1) "),
            ("<b>ok</b> <svg onload=alert(1)//", "ok svg onload=alert(1)//"),
            ("text <script src", "text script src"),
            ("<<<<<b>b>b>b>b> 1 < 2 and 2 > 1", "b> 1 < 2 and 2 > 1"),
        ] {
            assert_eq!(plain(text), expected, "{text}");
        }
    }

    #[test]
    fn control_characters_go() {
        assert_eq!(plain("a\u{0}b\u{7}c\u{1b}[31m\r\nd"), "abc[31m\nd");
        assert_eq!(plain_text("a\r\nb\tc\rd\u{7}", Lines::One), "a b c d");
        assert_eq!(plain("\u{1}b>x"), "b>x");
        assert_eq!(plain("<\u{1}b>x</b>"), "x", "a control character hides no tag");
    }

    fn has_tag(text: &str) -> bool {
        let is_element = |name: &[u8]| ELEMENTS.iter().any(|element| element.as_bytes().eq_ignore_ascii_case(name));
        tokenizer(text).flatten().any(|token| match token {
            Token::StartTag(tag) => is_element(&tag.name) || tag.attributes.values().any(|value| !value.is_empty()),
            Token::EndTag(tag) => is_element(&tag.name),
            _ => false,
        })
    }

    proptest! {
        #[test]
        fn text_without_tags_is_unchanged(text in "([^<\\p{Cc}]|<[ 0-9=>.&]){0,60}") {
            prop_assert_eq!(plain(&text), text);
        }

        #[test]
        fn no_tag_comes_out(text in "([a-z ]|<|>|/|!|-|\"|'|=|</?[a-z]{1,3}>|<script>|</script>|<!--|-->|<title>|<svg ){0,40}") {
            let out = plain(&text);
            prop_assert!(!has_tag(&out), "{} became {}", text, out);
            prop_assert_eq!(plain(&out), out);
        }

        #[test]
        fn nothing_panics_and_nothing_is_added(text in "\\PC{0,80}") {
            prop_assert!(plain(&text).len() <= text.len());
        }
    }
}
