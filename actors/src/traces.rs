//! Spans (OpenTelemetry). A request's context goes with what it wrote, explicitly: to the session, over the bus, to the
//! webhook, days later if need be. Like the measures they are the process's, not a hub's: a facade that the program turns on. Where spans are not exported, a context is passed on as it came and nothing else is
//! done.

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

/// Something that takes time. It ends when it is dropped.
#[derive(Default)]
pub struct Span {
    recorded: Option<BoxedSpan>,
    /// What it was called by, which stands in for it where it is not recorded.
    parent: Option<TraceParent>,
}

impl Span {
    /// Begins now. Without a parent it is the first of a new trace.
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

    /// What it is the parent of goes by this.
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

    /// Whether what is said of it is kept: otherwise nothing need be put together.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        self.recorded.as_ref().is_some_and(BoxedSpan::is_recording)
    }

    /// Takes the name that is known only at its end.
    pub fn name(&mut self, name: impl Into<Cow<'static, str>>) {
        if let Some(span) = &mut self.recorded {
            span.update_name(name);
        }
    }

    /// Says something of it, under a name of the OpenTelemetry semantic conventions where there is one.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(span) = &mut self.recorded {
            span.set_attribute(KeyValue::new(key, value));
        }
    }

    /// Marks it as one that did not do what it is for.
    pub fn failed(&mut self, why: impl Into<Cow<'static, str>>) {
        if let Some(span) = &mut self.recorded {
            span.set_status(Status::error(why));
        }
    }
}

/// One span for each event that somebody traces: from when this node wrote or heard it, until it is dropped.
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
