-- What wrote an event, so that its webhooks are part of the same trace, whenever they are sent.
alter table platform_events add column traceparent text;
alter table platform_events_archive add column traceparent text;
