-- What the hub checks before it writes, checked once more where the data is. `not valid`: rows that an earlier version
-- wrote are left as they are until they are updated.
alter table platform_events
    add constraint platform_events_event_type_form
        check (event_type ~ '^[a-z][a-z0-9_]*(\.[a-z0-9_]+)*$') not valid;
alter table platform_notifications
    add constraint platform_notifications_expires_later check (expires_at > created_at) not valid;
alter table app_webhooks
    add constraint app_webhooks_url_scheme check (webhook_url ~* '^https?:') not valid;
alter table webhook_delivery_log
    add constraint webhook_delivery_log_status_code check (status_code between 100 and 999) not valid,
    add constraint webhook_delivery_log_attempt check (delivery_attempt >= 1) not valid;


comment on column apps.app_id is 'A slug.';
comment on column apps.name is 'As users see it.';
comment on column apps.icon_url is 'An https or http URL; null if it has no icon.';
comment on column apps.is_active is 'An inactive app is refused everywhere.';
comment on column apps.created_at is 'When it was created.';
comment on column apps.updated_at is 'When it was last changed.';

comment on column app_api_keys.key_id is 'The name of the key, which is no secret.';
comment on column app_api_keys.app_id is 'The app that it acts for.';
comment on column app_api_keys.created_at is 'When it was made.';
comment on column app_api_keys.last_used_at is 'When it was last used, to the minute.';
comment on column app_api_keys.revoked_at is 'When it was revoked; null while it is valid.';

comment on column hub_meta.key is 'epoch, identity_revision or webhook_revision.';
comment on column hub_meta.value is 'Its value as text.';

comment on column streams.kind is 'user, app or broadcast.';
comment on column streams.last_offset is 'The head: the offset of its last event.';

comment on column platform_events.id is 'UUIDv7, made when the event was accepted.';
comment on column platform_events.app_id is 'The app that published it.';
comment on column platform_events.event_category is 'notification, user, session or transaction.';
comment on column platform_events.entity_type is 'The kind of what it is about.';
comment on column platform_events.entity_id is 'The id of what it is about.';
comment on column platform_events.app_offset is 'Its offset in the stream of its app.';
comment on column platform_events.user_offset is 'Its offset in the stream of its user; null in a broadcast.';
comment on column platform_events.broadcast_offset is 'Its offset in the broadcast stream; null unless it is a broadcast.';
comment on column platform_events.ip_address is 'The client that published it.';
comment on column platform_events.user_agent is 'The User-Agent of that client.';

comment on column platform_notifications.id is 'UUIDv7.';
comment on column platform_notifications.app_id is 'The app that created it.';
comment on column platform_notifications.user_id is 'The user that it is for.';
comment on column platform_notifications.title is 'Plain text.';
comment on column platform_notifications.body is 'Plain text.';
comment on column platform_notifications.notification_type is 'The type that the app gave it.';
comment on column platform_notifications.priority is 'low, normal, high or urgent.';
comment on column platform_notifications.action_url is 'Where a click leads; any scheme that runs no code.';
comment on column platform_notifications.action_label is 'The label of that action. Plain text.';
comment on column platform_notifications.image_url is 'An https or http URL.';
comment on column platform_notifications.icon_url is 'An https or http URL.';
comment on column platform_notifications.expires_at is 'When it expires; null if never.';
comment on column platform_notifications.created_at is 'When it was created.';
comment on column platform_notifications.updated_at is 'When its content last changed.';

comment on column notification_state.id is 'The id of this row.';
comment on column notification_state.notification_id is 'The notification.';
comment on column notification_state.user_id is 'The user that it is for.';
comment on column notification_state.status is 'unread, read, clicked, dismissed or expired.';
comment on column notification_state.sent_at is 'When it was created for the user.';
comment on column notification_state.read_at is 'When it was first read or clicked.';
comment on column notification_state.dismissed_at is 'When it was dismissed.';
comment on column notification_state.clicked_at is 'When it was first clicked.';
comment on column notification_state.expired_at is 'When it expired.';
comment on column notification_state.dismissed_from is 'The app or device in which it was dismissed.';
comment on column notification_state.click_action is 'What was clicked.';
comment on column notification_state.updated_at is 'When the status last changed.';

comment on column app_webhooks.id is 'UUIDv7.';
comment on column app_webhooks.app_id is 'The app that it belongs to.';
comment on column app_webhooks.webhook_url is 'Where events are sent: https, or http to this machine where the configuration allows it.';
comment on column app_webhooks.previous_secret is 'The secret before the last rotation, encrypted. It signs too until previous_secret_expires_at.';
comment on column app_webhooks.previous_secret_expires_at is 'When the previous secret stops signing.';
comment on column app_webhooks.subscribed_events is 'Patterns of event types.';
comment on column app_webhooks.is_active is 'Whether it gets deliveries.';
comment on column app_webhooks.disabled_reason is 'Why the hub disabled it; null otherwise.';
comment on column app_webhooks.description is 'The note of the app.';
comment on column app_webhooks.last_delivery_at is 'When the last attempt ended.';
comment on column app_webhooks.last_success_at is 'When an attempt last succeeded.';
comment on column app_webhooks.last_failure_at is 'When an attempt last failed.';
comment on column app_webhooks.consecutive_failures is 'Attempts that failed since the last success.';
comment on column app_webhooks.total_deliveries is 'Attempts so far.';
comment on column app_webhooks.total_failures is 'Attempts that failed so far.';
comment on column app_webhooks.max_retries is 'Attempts after the first one of a delivery.';
comment on column app_webhooks.retry_backoff_seconds is 'Wait before the first retry. Each further wait is twice as long.';
comment on column app_webhooks.created_at is 'When it was created.';
comment on column app_webhooks.updated_at is 'When it was last changed.';

comment on column webhook_deliveries.id is 'UUIDv7.';
comment on column webhook_deliveries.webhook_id is 'The webhook that is owed the event.';
comment on column webhook_deliveries.app_id is 'The app of the webhook.';
comment on column webhook_deliveries.event_id is 'The event.';
comment on column webhook_deliveries.event_type is 'Its full type.';
comment on column webhook_deliveries.status is 'pending, delivering, succeeded, failed or cancelled.';
comment on column webhook_deliveries.attempts is 'Attempts so far, since it was last queued.';
comment on column webhook_deliveries.next_attempt_at is 'When it is due.';
comment on column webhook_deliveries.lease_owner is 'The node that is sending it.';
comment on column webhook_deliveries.lease_until is 'When that claim ends if the node does not say how it went.';
comment on column webhook_deliveries.created_at is 'When it was queued.';
comment on column webhook_deliveries.updated_at is 'When it last changed.';

comment on column webhook_delivery_log.id is 'UUIDv7.';
comment on column webhook_delivery_log.delivery_id is 'The delivery.';
comment on column webhook_delivery_log.webhook_id is 'The webhook.';
comment on column webhook_delivery_log.app_id is 'The app of the webhook.';
comment on column webhook_delivery_log.event_id is 'The event; null for a test, and once the event is archived.';
comment on column webhook_delivery_log.event_type is 'Its full type.';
comment on column webhook_delivery_log.payload is 'The body that was sent.';
comment on column webhook_delivery_log.status_code is 'The status of the answer; null if there was none.';
comment on column webhook_delivery_log.response_body is 'The first 10 KiB of the answer.';
comment on column webhook_delivery_log.response_headers is 'The headers of the answer.';
comment on column webhook_delivery_log.delivery_attempt is '1 for the first attempt.';
comment on column webhook_delivery_log.delivered_at is 'When the attempt ended.';
comment on column webhook_delivery_log.response_time_ms is 'Milliseconds from the start of the attempt to its answer; null if there was none.';
comment on column webhook_delivery_log.success is 'Whether the answer was a 2xx.';
comment on column webhook_delivery_log.error_message is 'Why it failed; null if it succeeded.';

comment on column webhook_recoveries.id is 'UUIDv7.';
comment on column webhook_recoveries.webhook_id is 'The webhook.';
comment on column webhook_recoveries.app_id is 'Its app.';
comment on column webhook_recoveries.since is 'Events from this moment on are looked at.';
comment on column webhook_recoveries.queued is 'Deliveries queued so far.';
comment on column webhook_recoveries.created_at is 'When it was asked for.';
comment on column webhook_recoveries.finished_at is 'When it ended; null while it runs.';

comment on column idempotency_keys.app_id is 'The app that sent it.';
comment on column idempotency_keys.key is 'The value of the Idempotency-Key header.';
comment on column idempotency_keys.request_hash is 'SHA-256 of the request.';
comment on column idempotency_keys.response is 'The answer as JSON.';
comment on column idempotency_keys.expires_at is 'When it is forgotten.';

comment on column audit_log.id is 'UUIDv7.';
comment on column audit_log.actor is 'admin, cli, hub, first-run, the id of an app, or user: and the id of a user.';
comment on column audit_log.action is 'What was done, such as key.revoke or notification.dismissed.';
comment on column audit_log.subject is 'The id of what it was done to.';
comment on column audit_log.app_id is 'The app that it concerns.';
comment on column audit_log.ip_address is 'The client that asked for it.';
comment on column audit_log.at is 'When.';

comment on column nodes.node_id is 'Made anew with each start.';
comment on column nodes.started_at is 'When it started.';
comment on column nodes.seen_at is 'When it last renewed this row.';

comment on column archive_exports.table_name is 'The archive table that the rows leave.';
comment on column archive_exports.created_at is 'When the export began.';
