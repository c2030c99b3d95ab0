//! Frames from clients. A frame that cannot be parsed is answered with an `error` frame, and the socket stays open.

use serde::Serialize;
use serde_json::{Map, Value, value::RawValue};

use crate::model::{EventPattern, MAX_PATTERNS, Offset, entries, parse_json, whole_number};

/// The client's own id of a frame, echoed in the answer as it was written: a string or a number.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct FrameId(Box<RawValue>);

impl FrameId {
    fn of(frame: &[u8]) -> Option<Self> {
        let entries = entries(frame).ok()?;
        entries.iter().find(|entry| entry.name == "id").map(|entry| Self(entry.value.to_owned()))
    }
}

impl PartialEq for FrameId {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

impl Eq for FrameId {}

/// What a client may ask for.
#[derive(Debug, PartialEq, Eq)]
pub enum ClientFrame {
    /// Wants events, and perhaps a replay of what was missed (contract §5).
    Subscribe {
        /// Types of the events wanted.
        patterns: Vec<EventPattern>,
        /// The last offset seen in the socket's own stream.
        after: Option<Offset>,
        /// The last offset seen in the broadcast stream.
        after_broadcast: Option<Offset>,
        /// The epoch that the offsets belong to.
        epoch: Option<String>,
        /// Echoed in the answer.
        id: Option<FrameId>,
    },
    /// Wants some events no more.
    Unsubscribe {
        /// The patterns to drop, as they were subscribed.
        patterns: Vec<EventPattern>,
        /// Echoed in the answer.
        id: Option<FrameId>,
    },
    /// Presents a new token before the old one ends.
    Refresh {
        /// The new token.
        token: String,
        /// Echoed in the answer.
        id: Option<FrameId>,
    },
    /// Asks for a `pong`.
    Ping {
        /// Echoed in the answer.
        id: Option<FrameId>,
    },
}

/// A frame that could not be parsed, with the code and text for the `error` frame.
#[derive(Debug, PartialEq, Eq)]
pub struct FrameError {
    /// A code of contract §2.
    pub code: &'static str,
    /// What is wrong with the frame.
    pub message: String,
    /// The frame's own id, if it could be read.
    pub id: Option<FrameId>,
}

/// Greatest number of faults that one `error` frame lists, so that the answer cannot be many times as long as the
/// frame.
const MAX_FAULTS: usize = 10;

const ACTIONS: &str = "action must be subscribe, unsubscribe, refresh or ping";

/// Parses the text of one message.
///
/// # Errors
/// [`FrameError`] for bad JSON, an unknown action or field, a wrong type or a bad pattern.
pub fn parse_client_frame(text: &[u8]) -> Result<ClientFrame, FrameError> {
    let mut value: Value = parse_json(text).map_err(|error| FrameError {
        code: "malformed_json",
        message: format!("not JSON: {error}"),
        id: None,
    })?;
    let invalid = |message: String, id: Option<FrameId>| FrameError { code: "validation_failed", message, id };
    let Some(object) = value.as_object_mut() else {
        return Err(invalid("a frame must be a JSON object with an action".to_owned(), None));
    };
    let id = match object.remove("id") {
        None | Some(Value::Null) => None,
        Some(id) if id.is_number() || id.as_str().is_some_and(|text| text.len() <= 128) => FrameId::of(text),
        Some(_) => return Err(invalid("id must be a number or a string of at most 128 bytes".to_owned(), None)),
    };
    // Clients of the original platform say `type`.
    let action = if object.contains_key("action") { object.remove("action") } else { object.remove("type") };
    let mut fields = Fields { map: object, faults: Vec::new() };
    let frame = match action.as_ref().and_then(Value::as_str) {
        Some("subscribe") => {
            let patterns = fields.patterns();
            let (after, after_broadcast) = (fields.offset("after"), fields.offset("after_broadcast"));
            let epoch = fields.text("epoch");
            ClientFrame::Subscribe { patterns, after, after_broadcast, epoch, id: id.clone() }
        }
        Some("unsubscribe") => ClientFrame::Unsubscribe { patterns: fields.patterns(), id: id.clone() },
        Some("refresh") => {
            if !matches!(fields.map.get("token"), Some(Value::String(_))) {
                fields.map.remove("token");
                fields.fault("token must be a string");
            }
            ClientFrame::Refresh { token: fields.text("token").unwrap_or_default(), id: id.clone() }
        }
        Some("ping") => ClientFrame::Ping { id: id.clone() },
        _ => return Err(invalid(ACTIONS.to_owned(), id)),
    };
    match fields.finish() {
        Ok(()) => Ok(frame),
        Err(message) => Err(invalid(message, id)),
    }
}

/// The fields of a frame while it is parsed. Fields that nobody takes are unknown; the first [`MAX_FAULTS`] faults are
/// kept.
struct Fields<'a> {
    map: &'a mut Map<String, Value>,
    faults: Vec<String>,
}

impl Fields<'_> {
    fn fault(&mut self, message: impl Into<String>) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(message.into());
        }
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }

    fn offset(&mut self, name: &str) -> Option<Offset> {
        let value = self.take(name)?;
        let offset = whole_number(&value);
        if offset.is_none() {
            self.fault(format!("{name} must be a whole number from 0 on"));
        }
        offset
    }

    fn text(&mut self, name: &str) -> Option<String> {
        match self.take(name)? {
            Value::String(text) => Some(text),
            _ => {
                self.fault(format!("{name} must be a string"));
                None
            }
        }
    }

    fn patterns(&mut self) -> Vec<EventPattern> {
        let items = match self.take("event_types") {
            Some(Value::Array(items)) if (1..=MAX_PATTERNS).contains(&items.len()) => items,
            _ => {
                self.fault(format!("event_types must be an array of 1 to {MAX_PATTERNS} patterns"));
                return Vec::new();
            }
        };
        let mut patterns = Vec::with_capacity(items.len());
        for item in &items {
            match item.as_str().map(EventPattern::parse) {
                Some(Ok(pattern)) => patterns.push(pattern),
                Some(Err(rule)) => self.fault(format!("event_types: {item} {rule}")),
                None => self.fault(format!("event_types: {item} must be a string")),
            }
        }
        patterns
    }

    fn finish(mut self) -> Result<(), String> {
        for name in std::mem::take(self.map).keys() {
            self.fault(format!("{name} is not a field of this action"));
        }
        if self.faults.is_empty() { Ok(()) } else { Err(self.faults.join("; ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_subscribe_is_read() {
        let frame = parse_client_frame(
            br#"{"action":"subscribe","event_types":["notification.*"],"after":41,"after_broadcast":7,"epoch":"k3v9","id":"1"}"#,
        );
        let Ok(ClientFrame::Subscribe { patterns, after, after_broadcast, epoch, id }) = frame else {
            panic!("{frame:?}")
        };
        assert_eq!(patterns[0].as_str(), "notification.*");
        assert_eq!((after, after_broadcast, epoch.as_deref()), (Some(41), Some(7), Some("k3v9")));
        assert_eq!(serde_json::to_string(&id).unwrap(), r#""1""#);
    }

    #[test]
    fn mistakes_are_named_and_keep_their_id() {
        for (text, code, part) in [
            (&b"{"[..], "malformed_json", "JSON"),
            (b"[]", "validation_failed", "object"),
            (br#"{"action":"dance","id":7}"#, "validation_failed", "subscribe, unsubscribe, refresh or ping"),
            (br#"{"event_types":["*"]}"#, "validation_failed", "action"),
            (br#"{"action":"subscribe","event_types":["*"],"aftr":1}"#, "validation_failed", "aftr is not a field"),
            (br#"{"action":"subscribe","event_types":"*"}"#, "validation_failed", "event_types must be an array"),
            (br#"{"action":"subscribe","event_types":[]}"#, "validation_failed", "1 to 100"),
            (
                br#"{"action":"subscribe","event_types":["A"]}"#,
                "validation_failed",
                r#"event_types: "A" must be a full"#,
            ),
            (br#"{"action":"subscribe","event_types":[7]}"#, "validation_failed", "event_types: 7 must be a string"),
            (br#"{"action":"subscribe","event_types":["*"],"after":-1}"#, "validation_failed", "after must be a whole"),
            (br#"{"action":"subscribe","after":-1}"#, "validation_failed", "patterns; after must be a whole"),
            (br#"{"action":"subscribe","event_types":["*"],"epoch":1}"#, "validation_failed", "epoch must be a string"),
            (br#"{"action":"refresh"}"#, "validation_failed", "token must be a string"),
            (br#"{"action":"refresh","token":null}"#, "validation_failed", "token must be a string"),
            (br#"{"action":"ping","token":"x"}"#, "validation_failed", "token is not a field of this action"),
            (br#"{"action":"ping","id":{}}"#, "validation_failed", "id"),
        ] {
            let mistake = parse_client_frame(text).unwrap_err();
            assert_eq!(mistake.code, code, "{mistake:?}");
            assert!(mistake.message.contains(part), "{mistake:?}");
        }
        assert!(parse_client_frame(br#"{"action":"dance","id":7}"#).unwrap_err().id.is_some());
        let many: Map<String, Value> = (0..1000).map(|n| (format!("f{n}"), Value::Null)).collect();
        let mut many = Value::Object(many);
        many["action"] = "ping".into();
        assert!(parse_client_frame(many.to_string().as_bytes()).unwrap_err().message.len() < 500);
    }
}
