//! Request bodies: read up to a limit, and parsed field by field, so that one answer names every fault.

use std::{
    collections::{BTreeMap, btree_map},
    pin::Pin,
    time::Duration,
};

use actix_web::{
    FromRequest, HttpRequest,
    dev::Payload,
    http::header,
    web::{Bytes, BytesMut, Data},
};
use futures_util::StreamExt as _;
use oriva_hub_actors::model::{Entry, Invalid, JsonObject, entries, parse_json, whole_number};
use serde_json::{Map, Value, value::RawValue};

use super::problem::{Code, Problem};
use crate::store::{FaultyField, ItemError};

/// Greatest size of a body in bytes (`server.max_body_bytes`).
#[derive(Debug, Clone, Copy)]
pub struct MaxBodyBytes(pub usize);

/// Deadline for the whole body. It is shorter than a request's deadline, so that the client gets an answer that says
/// what is missing.
const LONGEST_BODY: Duration = Duration::from_secs(60);

/// Greatest size of `event_data`, `context_data` and `metadata`, in bytes of JSON as it was sent.
pub const MAX_OBJECT_BYTES: usize = 64 * 1024;

/// Greatest number of faults that one answer lists for an object, so that an answer is not longer than its request.
const MAX_FAULTS: usize = 50;
/// Greatest number of faults that one answer lists for a batch, beyond the first of each item.
const MAX_BATCH_FAULTS: usize = 1000;
/// Characters of an unknown field's name that an answer repeats.
const MAX_NAME_CHARACTERS: usize = 64;

/// A body that is read when the handler asks for it: after the caller is authenticated and the request counted.
pub struct Body {
    request: HttpRequest,
    payload: Payload,
}

impl FromRequest for Body {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let body = Self { request: request.clone(), payload: payload.take() };
        Box::pin(std::future::ready(Ok(body)))
    }
}

impl Body {
    /// Reads a body that must be there. [`Fields::parse`] takes it.
    ///
    /// # Errors
    /// 413, 415, or 400 `malformed_json`.
    pub async fn json(self) -> Result<Bytes, Problem> {
        self.must_be_json()?;
        self.read().await
    }

    /// As [`Body::json`], but no body, or `null`, counts as an empty object.
    ///
    /// # Errors
    /// As [`Body::json`].
    pub async fn json_or_nothing(self) -> Result<Bytes, Problem> {
        let has_type = self.request.headers().contains_key(header::CONTENT_TYPE);
        if has_type {
            self.must_be_json()?;
        }
        let bytes = self.read().await?;
        let is_nothing = bytes.is_empty() || bytes.trim_ascii() == b"null";
        Ok(if is_nothing { Bytes::from_static(b"{}") } else { bytes })
    }

    fn must_be_json(&self) -> Result<(), Problem> {
        let headers = self.request.headers();
        let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
        let essence = media_type.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
        let is_json =
            essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"));
        let is_plain = headers
            .get(header::CONTENT_ENCODING)
            .is_none_or(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"identity"));
        if is_json && is_plain {
            Ok(())
        } else {
            Err(Problem::new(Code::UnsupportedMediaType, "send Content-Type: application/json, not compressed"))
        }
    }

    async fn read(mut self) -> Result<Bytes, Problem> {
        let max = self.request.app_data::<Data<MaxBodyBytes>>().map_or(1024 * 1024, |max| max.0);
        let too_large = || Problem::new(Code::PayloadTooLarge, format!("the body must be at most {max} bytes"));
        let declared = self.request.headers().get(header::CONTENT_LENGTH);
        let declared = declared.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if declared.is_some_and(|length| length > max) {
            return Err(too_large());
        }
        let mut bytes = BytesMut::with_capacity(declared.unwrap_or(0));
        let until = tokio::time::Instant::now() + LONGEST_BODY;
        loop {
            let Ok(chunk) = tokio::time::timeout_at(until, self.payload.next()).await else {
                let detail = format!("the body did not come within {} s", LONGEST_BODY.as_secs());
                return Err(Problem::new(Code::RequestTimeout, detail));
            };
            let Some(chunk) = chunk else { break };
            let chunk = chunk.map_err(|_| Problem::new(Code::MalformedJson, "the body ended early"))?;
            if bytes.len() + chunk.len() > max {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }
}

/// The faults of a batch's items, bounded for the batch as a whole.
#[derive(Default)]
pub struct BatchFaults {
    listed: usize,
}

impl BatchFaults {
    /// The error that is sent in an item's place.
    pub fn reject(&mut self, mut faults: Vec<FaultyField>) -> ItemError {
        faults.truncate(MAX_BATCH_FAULTS.saturating_sub(self.listed).max(1));
        self.listed += faults.len();
        ItemError::invalid(faults)
    }
}

/// A field as it was sent.
enum Sent<'a> {
    Json(&'a RawValue),
    /// A parameter of the address.
    Parameter(String),
}

/// The fields of an object while it is parsed. Fields that nobody takes are unknown. Faults are collected, so that all
/// of them are in the answer.
pub struct Fields<'a> {
    fields: BTreeMap<String, Sent<'a>>,
    faults: Vec<FaultyField>,
}

impl<'a> Fields<'a> {
    /// The fields of a body. A field that is there twice is a fault.
    ///
    /// # Errors
    /// 400 where it is no JSON object.
    pub fn parse(body: &'a [u8]) -> Result<Self, Problem> {
        match entries(body) {
            Ok(entries) => Ok(Self::of_entries(entries)),
            Err(error) if error.is_data() => {
                Err(Problem::new(Code::ValidationFailed, "the body must be a JSON object"))
            }
            Err(_) if body.starts_with("\u{feff}".as_bytes()) => {
                let detail = "the body begins with a byte order mark (U+FEFF): send JSON without it (RFC 8259)";
                Err(Problem::new(Code::MalformedJson, detail))
            }
            Err(error) => Err(Problem::new(Code::MalformedJson, format!("the body is not JSON: {error}"))),
        }
    }

    /// The fields of a batch's item. `None` if it is no object.
    #[must_use]
    pub fn of_item(item: &'a RawValue) -> Option<Self> {
        entries(item.get().as_bytes()).ok().map(Self::of_entries)
    }

    fn of_entries(entries: Vec<Entry<'a>>) -> Self {
        Self::of_pairs(entries.into_iter().map(|entry| (entry.name, Sent::Json(entry.value))))
    }

    /// The parameters of an address. One that is there twice is a fault.
    #[must_use]
    pub fn of_parameters(parameters: impl IntoIterator<Item = (String, String)>) -> Self {
        Self::of_pairs(parameters.into_iter().map(|(name, value)| (name, Sent::Parameter(value))))
    }

    fn of_pairs(pairs: impl Iterator<Item = (String, Sent<'a>)>) -> Self {
        let mut parsed = Self { fields: BTreeMap::new(), faults: Vec::new() };
        for (name, sent) in pairs {
            match parsed.fields.entry(name) {
                btree_map::Entry::Vacant(place) => _ = place.insert(sent),
                btree_map::Entry::Occupied(place) => {
                    let name = place.key().clone();
                    parsed.fault(&name, "must be given once");
                }
            }
        }
        parsed
    }

    /// Notes a fault. Those beyond [`MAX_FAULTS`] are dropped.
    pub fn fault(&mut self, name: &str, rule: &str) {
        if self.faults.len() < MAX_FAULTS {
            let shown: String = name.chars().take(MAX_NAME_CHARACTERS).collect();
            self.faults.push(FaultyField::new(&shown, rule));
        }
    }

    /// Takes a field that may be absent or null.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        match self.fields.remove(name)? {
            Sent::Parameter(text) => Some(Value::String(text)),
            Sent::Json(json) => match parse_json(json.get().as_bytes()) {
                Ok(value) => Some(value).filter(|value| !value.is_null()),
                Err(error) => {
                    self.fault(name, &format!("cannot be read: {error}"));
                    None
                }
            },
        }
    }

    /// Takes a field of a body that may be absent or null, as it was written.
    fn take_json(&mut self, name: &str) -> Option<&'a RawValue> {
        match self.fields.remove(name)? {
            Sent::Json(json) if json.get() != "null" => Some(json),
            _ => None,
        }
    }

    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.fields.contains_key(name)
    }

    /// Renames a field that the client sent under its alias. To send both is a fault.
    pub fn rename(&mut self, alias: &str, name: &str) {
        if let Some(sent) = self.fields.remove(alias) {
            if self.has(name) {
                self.fault(alias, &format!("is another name for {name}: send one of them"));
            } else {
                self.fields.insert(name.to_owned(), sent);
            }
        }
    }

    /// Takes and parses an optional string. U+0000 is a fault, because PostgreSQL cannot store it.
    pub fn optional<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, Invalid>) -> Option<T> {
        self.optional_text(name, |text| {
            if text.contains('\0') {
                return Err(Invalid("must not contain the character U+0000".to_owned()));
            }
            parse(text)
        })
    }

    /// Takes and parses a required string.
    pub fn required<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, Invalid>) -> Option<T> {
        if self.is_there(name) { self.optional(name, parse) } else { None }
    }

    /// Takes an optional string for a rule that accepts any character.
    pub fn optional_text<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, Invalid>) -> Option<T> {
        let is_parameter = matches!(self.fields.get(name), Some(Sent::Parameter(_)));
        match self.take(name)? {
            Value::String(text) => match parse(&text) {
                Ok(value) => return Some(value),
                Err(Invalid(rule)) if is_parameter && text.contains(' ') => {
                    self.fault(name, &format!("{rule} (a + in an address means a space: + itself is written %2B)"));
                }
                Err(Invalid(rule)) => self.fault(name, &rule),
            },
            _ => self.fault(name, "must be a string"),
        }
        None
    }

    /// As [`Fields::optional_text`], but required.
    pub fn required_text<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, Invalid>) -> Option<T> {
        if self.is_there(name) { self.optional_text(name, parse) } else { None }
    }

    /// Removes a field that is absent or null, and says whether it was.
    pub fn is_absent(&mut self, name: &str) -> bool {
        let lacks = match self.fields.get(name) {
            None => true,
            Some(Sent::Json(json)) => json.get() == "null",
            Some(Sent::Parameter(_)) => false,
        };
        if lacks {
            self.fields.remove(name);
        }
        lacks
    }

    fn is_there(&mut self, name: &str) -> bool {
        let lacks = self.is_absent(name);
        if lacks {
            self.fault(name, "is required");
        }
        !lacks
    }

    /// Takes a required array of 1 to `max` items.
    pub fn batch(&mut self, name: &str, max: usize) -> Option<Vec<&'a RawValue>> {
        let items = self.take_json(name).and_then(|json| serde_json::from_str::<Vec<&RawValue>>(json.get()).ok());
        let items = items.filter(|items| (1..=max).contains(&items.len()));
        if items.is_none() {
            self.fault(name, &format!("must be an array of 1 to {max}"));
        }
        items
    }

    /// Takes an optional object that is passed on as it was written.
    pub fn object(&mut self, name: &str) -> Option<JsonObject> {
        let json = self.take_json(name)?;
        if json.get().len() > MAX_OBJECT_BYTES {
            self.fault(name, &format!("must be at most {MAX_OBJECT_BYTES} bytes of JSON"));
            return None;
        }
        match JsonObject::from_client(json) {
            Ok(object) => Some(object),
            Err(Invalid(rule)) => {
                self.fault(name, &rule);
                None
            }
        }
    }

    /// Takes an optional object that the hub reads itself.
    pub fn map(&mut self, name: &str) -> Option<Map<String, Value>> {
        match self.take(name)? {
            Value::Object(map) => return Some(map),
            _ => self.fault(name, "must be an object"),
        }
        None
    }

    pub fn boolean(&mut self, name: &str) -> Option<bool> {
        match self.take(name)? {
            Value::Bool(flag) => return Some(flag),
            _ => self.fault(name, "must be true or false"),
        }
        None
    }

    pub fn integer(&mut self, name: &str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        match whole_number(&self.take(name)?).filter(|number| range.contains(number)) {
            Some(number) => Some(number),
            None => {
                self.fault(name, &format!("must be a whole number from {} to {}", range.start(), range.end()));
                None
            }
        }
    }

    /// Ends parsing. Every field that is left is unknown.
    ///
    /// # Errors
    /// All faulty fields.
    pub fn finish(mut self) -> Result<(), Vec<FaultyField>> {
        for name in std::mem::take(&mut self.fields).keys() {
            self.fault(name, "is not a field of this request");
        }
        if self.faults.is_empty() { Ok(()) } else { Err(self.faults) }
    }
}

/// As [`text`], and not all blank.
pub fn visible_text(characters: std::ops::RangeInclusive<usize>) -> impl FnOnce(&str) -> Result<String, Invalid> {
    move |sent| {
        let sent = text(characters)(sent)?;
        if sent.chars().all(char::is_whitespace) { Err(Invalid("must not be blank".to_owned())) } else { Ok(sent) }
    }
}

/// A rule for text with this many characters.
pub fn text(characters: std::ops::RangeInclusive<usize>) -> impl FnOnce(&str) -> Result<String, Invalid> {
    move |text| {
        if characters.contains(&text.chars().count()) {
            Ok(text.to_owned())
        } else {
            Err(Invalid(format!("must be {} to {} characters", characters.start(), characters.end())))
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::{http::StatusCode, test::TestRequest};

    use super::*;

    #[test]
    fn an_answer_is_not_longer_than_its_request() {
        let sent: Map<_, _> = (0..10_000).map(|n| (format!("{n}-{}", "x".repeat(100)), Value::Null)).collect();
        let sent = serde_json::to_vec(&sent).unwrap();
        let faults = Fields::parse(&sent).unwrap().finish().unwrap_err();
        assert_eq!(faults.len(), MAX_FAULTS);
        assert!(faults.iter().all(|fault| fault.field.chars().count() <= MAX_NAME_CHARACTERS));
    }

    #[test]
    fn a_field_that_is_there_twice_is_named() {
        let sent = br#"{"title":"A","t\u0069tle":"B","limits":{"read":1,"read":2}}"#;
        let mut fields = Fields::parse(sent).unwrap();
        assert_eq!(fields.take("title"), Some("A".into()));
        assert_eq!(fields.map("limits"), None);
        let faults = fields.finish().unwrap_err();
        assert_eq!(faults.iter().map(|fault| &*fault.field).collect::<Vec<_>>(), ["title", "limits"]);
    }

    #[test]
    fn the_faults_of_a_batch_are_bounded_together() {
        let faults = || (0..MAX_FAULTS).map(|n| FaultyField::new(&n.to_string(), "is unknown")).collect();
        let mut batch = BatchFaults::default();
        let listed: usize = (0..1000).map(|_| batch.reject(faults()).details.len()).sum();
        assert!(listed < MAX_BATCH_FAULTS + 1000, "{listed}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_coming_is_the_clients_fault() {
        let (request, _) = TestRequest::post().insert_header(header::ContentType::json()).to_http_parts();
        let begun = futures_util::stream::once(async { Ok(Bytes::from_static(b"{")) });
        let payload = begun.chain(futures_util::stream::pending());
        let body = Body { request, payload: Payload::Stream { payload: Box::pin(payload) } };
        let problem = body.json().await.unwrap_err();
        assert_eq!(actix_web::ResponseError::status_code(&problem), StatusCode::REQUEST_TIMEOUT);
        assert!(format!("{problem:?}").contains("within 60 s"), "{problem:?}");
    }
}
