//! Frames from a client: parsed into types, or into a mistake that is answered and survived.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::{EventPattern, MAX_PATTERNS, Offset, parse_json};

/// The client's own mark on a frame, echoed in the answer: a string or a number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct FrameId(Value);

/// What a client may ask for.
#[derive(Debug, PartialEq, Eq)]
pub enum ClientFrame {
    Subscribe {
        patterns: Vec<EventPattern>,
        after: Option<Offset>,
        after_broadcast: Option<Offset>,
        epoch: Option<String>,
        id: Option<FrameId>,
    },
    Unsubscribe {
        patterns: Vec<EventPattern>,
        id: Option<FrameId>,
    },
    Refresh {
        token: String,
        id: Option<FrameId>,
    },
    Ping {
        id: Option<FrameId>,
    },
}

/// A frame that could not be understood, with the code and text of the `error` frame that answers it.
#[derive(Debug, PartialEq, Eq)]
pub struct Mistake {
    pub code: &'static str,
    pub message: String,
    pub id: Option<FrameId>,
}

#[derive(Deserialize)]
#[serde(tag = "action", rename_all = "lowercase", deny_unknown_fields)]
enum Raw {
    Subscribe {
        event_types: Vec<String>,
        #[serde(default)]
        after: Option<Offset>,
        #[serde(default)]
        after_broadcast: Option<Offset>,
        #[serde(default)]
        epoch: Option<String>,
    },
    Unsubscribe {
        event_types: Vec<String>,
    },
    Refresh {
        token: String,
    },
    Ping {},
}

/// Parses the text of one message.
///
/// # Errors
/// [`Mistake`] for bad JSON, an unknown action or field, a wrong type or a bad pattern.
pub fn parse_client_frame(text: &[u8]) -> Result<ClientFrame, Mistake> {
    let mut value: Value = parse_json(text).map_err(|error| Mistake {
        code: "malformed_json",
        message: format!("not JSON: {error}"),
        id: None,
    })?;
    let invalid = |message: String, id: Option<FrameId>| Mistake { code: "validation_failed", message, id };
    let Some(object) = value.as_object_mut() else {
        return Err(invalid("a frame must be a JSON object with an action".to_owned(), None));
    };
    let id = match object.remove("id") {
        None | Some(Value::Null) => None,
        Some(id) if id.is_number() || id.as_str().is_some_and(|text| text.len() <= 128) => Some(FrameId(id)),
        Some(_) => return Err(invalid("id must be a number or a string of at most 128 bytes".to_owned(), None)),
    };
    let raw: Raw = match serde_json::from_value(value) {
        Ok(raw) => raw,
        Err(error) => return Err(invalid(error.to_string(), id)),
    };
    let parse_patterns = |event_types: Vec<String>, id: &Option<FrameId>| {
        if event_types.is_empty() || event_types.len() > MAX_PATTERNS {
            return Err(invalid(format!("event_types must hold 1 to {MAX_PATTERNS} patterns"), id.clone()));
        }
        event_types
            .iter()
            .map(|text| {
                EventPattern::parse(text).map_err(|rule| invalid(format!("event_types: {text:?} {rule}"), id.clone()))
            })
            .collect::<Result<Vec<_>, _>>()
    };
    Ok(match raw {
        Raw::Subscribe { event_types, after, after_broadcast, epoch } => {
            ClientFrame::Subscribe { patterns: parse_patterns(event_types, &id)?, after, after_broadcast, epoch, id }
        }
        Raw::Unsubscribe { event_types } => {
            ClientFrame::Unsubscribe { patterns: parse_patterns(event_types, &id)?, id }
        }
        Raw::Refresh { token } => ClientFrame::Refresh { token, id },
        Raw::Ping {} => ClientFrame::Ping { id },
    })
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
        assert_eq!(id, Some(FrameId("1".into())));
    }

    #[test]
    fn mistakes_are_named_and_keep_their_id() {
        for (text, code, part) in [
            (&b"{"[..], "malformed_json", "JSON"),
            (b"[]", "validation_failed", "object"),
            (br#"{"action":"dance","id":7}"#, "validation_failed", "dance"),
            (br#"{"event_types":["*"]}"#, "validation_failed", "action"),
            (br#"{"action":"subscribe","event_types":["*"],"aftr":1}"#, "validation_failed", "aftr"),
            (br#"{"action":"subscribe","event_types":"*"}"#, "validation_failed", "sequence"),
            (br#"{"action":"subscribe","event_types":[]}"#, "validation_failed", "1 to 100"),
            (br#"{"action":"subscribe","event_types":["A"]}"#, "validation_failed", "A"),
            (br#"{"action":"subscribe","event_types":["*"],"after":-1}"#, "validation_failed", "-1"),
            (br#"{"action":"ping","id":{}}"#, "validation_failed", "id"),
        ] {
            let mistake = parse_client_frame(text).unwrap_err();
            assert_eq!(mistake.code, code, "{mistake:?}");
            assert!(mistake.message.contains(part), "{mistake:?}");
        }
        assert!(parse_client_frame(br#"{"action":"dance","id":7}"#).unwrap_err().id.is_some());
    }
}
