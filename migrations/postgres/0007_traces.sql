-- What wrote an event, so that its webhooks are part of the same trace, whenever they are sent.
alter table platform_events add column traceparent text;
comment on column platform_events.traceparent is 'W3C Trace Context; null where nobody traces.';
alter table platform_events_archive add column traceparent text;
