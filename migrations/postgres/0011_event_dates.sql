-- Lists by date go by this index alone: events that were stored in one millisecond are told apart by their offset.
create index platform_events_app_dates on platform_events (app_id, created_at, app_offset);
drop index platform_events_app_created;
