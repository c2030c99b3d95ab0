//! Spans (OpenTelemetry). A request's trace context is passed on explicitly: to the session, over the bus, and to the
//! webhook, perhaps days later. Like metrics, the exporter belongs to the process, not to a hub. Without an exporter, a
//! context is passed on as it came, and nothing else is done.

use std::{borrow::Cow, sync::OnceLock, time::SystemTime};

use opentelemetry::{
    Context, KeyValue, SpanId, TraceFlags, TraceId, Value,
    global::{BoxedSpan, BoxedTracer},
    trace::{Span as _, SpanBuilder, SpanContext, Status, TraceContextExt as _, TraceState, Tracer as _},
};

pub use opentelemetry::trace::SpanKind;

use crate::{model::TraceParent, protocol::PublishedEvent};

static TRACER: OnceLock<BoxedTracer> = OnceLock::new();

/// Exports spans from now on. Later calls change nothing.
pub fn export_with(tracer: BoxedTracer) {
    let _ = TRACER.set(tracer);
}

/// A span. It ends when it is dropped.
#[derive(Default)]
pub struct Span {
    recorded: Option<BoxedSpan>,
    /// The caller's context. It is passed on where this span is not recorded.
    parent: Option<TraceParent>,
}

impl Span {
    /// Begins a span. Without a parent it is the root of a new trace.
    #[must_use]
    pub fn begin(name: &'static str, kind: SpanKind, parent: Option<TraceParent>) -> Self {
        Self::since(None, name, kind, parent)
    }

    fn since(began: Option<SystemTime>, name: &'static str, kind: SpanKind, parent: Option<TraceParent>) -> Self {
        let Some(tracer) = TRACER.get() else { return Self { recorded: None, parent } };
        let context = match parent {
            None => Context::new(),
            Some(TraceParent { trace_id, span_id, flags }) => {
                let (trace, span) = (TraceId::from_bytes(trace_id), SpanId::from_bytes(span_id));
                let remote = SpanContext::new(trace, span, TraceFlags::new(flags), true, TraceState::NONE);
                Context::new().with_remote_span_context(remote)
            }
        };
        let mut builder = SpanBuilder::from_name(name).with_kind(kind);
        builder.start_time = began;
        Self { recorded: Some(tracer.build_with_context(builder, &context)), parent }
    }

    /// The context for its children.
    #[must_use]
    pub fn context(&self) -> Option<TraceParent> {
        match self.recorded.as_ref().map(BoxedSpan::span_context) {
            Some(context) if context.is_valid() => Some(TraceParent {
                trace_id: context.trace_id().to_bytes(),
                span_id: context.span_id().to_bytes(),
                flags: context.trace_flags().to_u8(),
            }),
            _ => self.parent,
        }
    }

    /// Whether it is recorded. If not, attributes need not be computed.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        self.recorded.as_ref().is_some_and(BoxedSpan::is_recording)
    }

    /// Sets the name, if it is known only at the end.
    pub fn name(&mut self, name: impl Into<Cow<'static, str>>) {
        if let Some(span) = &mut self.recorded {
            span.update_name(name);
        }
    }

    /// Sets an attribute. Use a name of the OpenTelemetry semantic conventions where there is one.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(span) = &mut self.recorded {
            span.set_attribute(KeyValue::new(key, value));
        }
    }

    /// Marks the span as failed.
    pub fn failed(&mut self, why: impl Into<Cow<'static, str>>) {
        if let Some(span) = &mut self.recorded {
            span.set_status(Status::error(why));
        }
    }
}

/// One span for each traced event: from when this node wrote or received it until the span is dropped.
#[must_use]
pub fn deliveries(events: &[std::sync::Arc<PublishedEvent>]) -> Vec<Span> {
    if TRACER.get().is_none() {
        return Vec::new();
    }
    let traced = events.iter().filter_map(|event| Some((event, event.event().trace?)));
    traced
        .map(|(event, parent)| {
            #[expect(clippy::disallowed_methods, reason = "a span begins at a moment of the wall clock")]
            let began = SystemTime::now().checked_sub(event.age());
            let mut span = Span::since(began, "deliver to sockets", SpanKind::Consumer, Some(parent));
            if span.is_recorded() {
                span.set("oriva.event_id", event.event().id.to_string());
            }
            span
        })
        .collect()
}
