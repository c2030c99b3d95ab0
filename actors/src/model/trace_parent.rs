//! The trace that something belongs to, across processes (W3C Trace Context).

use std::fmt;

use serde::{Serialize, Serializer};

/// A `traceparent`: trace id, id of the parent span, and whether the trace is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent {
    /// The trace.
    pub trace_id: [u8; 16],
    /// The span within it that is the parent.
    pub span_id: [u8; 8],
    /// Bit 0: the caller records the trace.
    pub flags: u8,
}

/// The flags `recorded` and `random trace id` (level 2). Other flags must not be passed on.
const KNOWN_FLAGS: u8 = 0b11;

impl TraceParent {
    /// Length of the binary form, in bytes.
    pub const LENGTH: usize = 25;

    /// Parses version 00, and the part that later versions share with it. `None`: the header must be ignored (Trace
    /// Context §3.2.4).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(5, '-');
        let (version, trace_id) = (hex::<1>(parts.next()?)?[0], hex(parts.next()?)?);
        let (span_id, flags) = (hex(parts.next()?)?, hex::<1>(parts.next()?)?[0]);
        let has_more = parts.next().is_some();
        let is_one = version != 0xff && !(version == 0 && has_more) && trace_id != [0; 16] && span_id != [0; 8];
        is_one.then_some(Self { trace_id, span_id, flags: flags & KNOWN_FLAGS })
    }

    /// Trace, span and flags, one after the other.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        bytes[..16].copy_from_slice(&self.trace_id);
        bytes[16..24].copy_from_slice(&self.span_id);
        bytes[24] = self.flags;
        bytes
    }

    /// The reverse of [`TraceParent::to_bytes`].
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::LENGTH]) -> Self {
        let mut parent = Self { trace_id: [0; 16], span_id: [0; 8], flags: bytes[24] };
        parent.trace_id.copy_from_slice(&bytes[..16]);
        parent.span_id.copy_from_slice(&bytes[16..24]);
        parent
    }
}

/// `N` bytes in lower-case hexadecimal.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("00-")?;
        self.trace_id.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("-")?;
        self.span_id.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, "-{:02x}", self.flags)
    }
}

impl Serialize for TraceParent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_is_read_is_written_again() {
        let parent = TraceParent::parse(TEXT).unwrap();
        assert_eq!(parent.to_string(), TEXT);
        assert_eq!(TraceParent::from_bytes(parent.to_bytes()), parent);
    }

    #[test]
    fn a_later_version_is_read_by_what_it_has_in_common() {
        let later = format!("cc{}-what-the-future-will-be-like", &TEXT[2..]);
        assert_eq!(TraceParent::parse(&later), TraceParent::parse(TEXT));
    }

    #[test]
    fn flags_that_nobody_knows_are_not_sent_on() {
        let parent = TraceParent::parse(&format!("{}ff", &TEXT[..53])).unwrap();
        assert_eq!(parent.to_string(), format!("{}03", &TEXT[..53]));
    }

    #[test]
    fn what_is_none_is_passed_over() {
        let zero_trace = format!("00-{}-b7ad6b7169203331-01", "0".repeat(32));
        let zero_span = format!("00-0af7651916cd43dd8448eb211c80319c-{}-01", "0".repeat(16));
        let of_version_ff = format!("ff{}", &TEXT[2..]);
        let with_more = format!("{TEXT}-00");
        for text in ["", "00", &TEXT.to_uppercase(), &TEXT[..54], &zero_trace, &zero_span, &of_version_ff, &with_more] {
            assert_eq!(TraceParent::parse(text), None, "{text}");
        }
        assert_eq!(TraceParent::parse("00-0af7651916cd43dd8448eb211c80319é-b7ad6b7169203331-01"), None);
    }
}
