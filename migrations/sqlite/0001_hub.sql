-- The whole model, as migrations/postgres/0001_hub.sql has it, in SQLite's words. Comments on columns stand there.
-- Moments are integers: milliseconds since 1970-01-01T00:00:00Z. Ids are 16-byte blobs. JSON is text.

create table hub_meta (
    key text primary key,
    value text not null
) strict;

create table apps (
    app_id text primary key check (length(app_id) between 1 and 63),
    name text not null check (length(name) between 1 and 200),
    icon_url text,
    is_active integer not null default 1,
    is_platform integer not null default 0,
    limits text not null default '{}',
    created_at integer not null,
    updated_at integer not null
) strict;

create table app_api_keys (
    key_id blob primary key,
    app_id text not null references apps (app_id) on delete restrict,
    key_hash blob not null unique check (length(key_hash) = 32),
    prefix text not null,
    created_at integer not null,
    last_used_at integer,
    revoked_at integer
) strict;
create index app_api_keys_app on app_api_keys (app_id);
create index app_api_keys_revoked on app_api_keys (revoked_at) where revoked_at is not null;

create table streams (
    kind text not null check (kind in ('user', 'app', 'broadcast')),
    key text not null,
    last_offset integer not null check (last_offset >= 0),
    primary key (kind, key)
) strict, without rowid;

create table platform_events (
    id blob primary key,
    app_id text not null references apps (app_id) on delete restrict,
    user_id text,
    event_category text not null check (event_category in ('notification', 'user', 'session', 'transaction')),
    event_type text not null check (length(event_type) between 1 and 100),
    entity_type text not null check (length(entity_type) between 1 and 100),
    entity_id text not null check (length(entity_id) between 1 and 255),
    event_data text not null default '{}',
    from_platform integer not null,
    app_offset integer not null,
    user_offset integer,
    broadcast_offset integer,
    ip_address text,
    user_agent text,
    timestamp integer not null,
    created_at integer not null,
    check ((user_id is null) = (user_offset is null)),
    check ((user_id is null) = (broadcast_offset is not null))
) strict, without rowid;
create unique index platform_events_app_offset on platform_events (app_id, app_offset);
create unique index platform_events_user_offset on platform_events (user_id, user_offset) where user_id is not null;
create unique index platform_events_broadcast_offset on platform_events (broadcast_offset) where broadcast_offset is not null;
create index platform_events_app_created on platform_events (app_id, created_at desc);
create index platform_events_type_created on platform_events (event_category, event_type, created_at desc);

create table platform_notifications (
    id blob primary key,
    app_id text not null references apps (app_id) on delete restrict,
    external_id text check (length(external_id) between 1 and 255),
    user_id text not null,
    title text not null check (length(title) between 1 and 200),
    body text not null check (length(body) between 1 and 1000),
    notification_type text not null default 'general' check (length(notification_type) between 1 and 100),
    priority text not null default 'normal' check (priority in ('low', 'normal', 'high', 'urgent')),
    priority_rank integer not null generated always as (
        case priority when 'urgent' then 0 when 'high' then 1 when 'normal' then 2 else 3 end
    ) stored,
    action_url text check (length(action_url) <= 2048),
    action_label text check (length(action_label) <= 50),
    image_url text check (length(image_url) <= 2048),
    icon_url text check (length(icon_url) <= 2048),
    context_data text not null default '{}',
    expires_at integer,
    created_at integer not null,
    updated_at integer not null
) strict;
create unique index platform_notifications_external_id on platform_notifications (app_id, external_id)
    where external_id is not null;
create index platform_notifications_feed on platform_notifications (user_id, priority_rank, created_at desc, id desc);
create index platform_notifications_expiry on platform_notifications (expires_at) where expires_at is not null;

create table notification_state (
    id blob primary key,
    notification_id blob not null references platform_notifications (id) on delete cascade,
    user_id text not null,
    status text not null default 'unread' check (status in ('unread', 'read', 'clicked', 'dismissed', 'expired')),
    sent_at integer,
    delivered_at integer,
    read_at integer,
    dismissed_at integer,
    clicked_at integer,
    expired_at integer,
    dismissed_from text,
    click_action text,
    created_at integer not null,
    updated_at integer not null,
    unique (notification_id, user_id)
) strict;
create index notification_state_unread on notification_state (user_id) where status = 'unread';

create table app_webhooks (
    id blob primary key,
    app_id text not null references apps (app_id) on delete restrict,
    webhook_url text not null check (length(webhook_url) <= 2048),
    secret blob not null,
    previous_secret blob,
    previous_secret_expires_at integer,
    subscribed_events text not null check (json_array_length(subscribed_events) between 1 and 100),
    is_active integer not null default 1,
    disabled_reason text,
    description text,
    last_delivery_at integer,
    last_success_at integer,
    last_failure_at integer,
    consecutive_failures integer not null default 0,
    total_deliveries integer not null default 0,
    total_failures integer not null default 0,
    max_retries integer not null default 5 check (max_retries between 1 and 10),
    retry_backoff_seconds integer not null default 1 check (retry_backoff_seconds between 1 and 60),
    created_at integer not null,
    updated_at integer not null
) strict;
create index app_webhooks_app on app_webhooks (app_id);

create table webhook_deliveries (
    id blob primary key,
    webhook_id blob not null references app_webhooks (id) on delete cascade,
    app_id text not null,
    event_id blob not null,
    event_type text not null,
    status text not null default 'pending'
        check (status in ('pending', 'delivering', 'succeeded', 'failed', 'cancelled')),
    attempts integer not null default 0,
    next_attempt_at integer not null,
    lease_owner blob,
    lease_until integer,
    created_at integer not null,
    updated_at integer not null,
    unique (webhook_id, event_id)
) strict;
create index webhook_deliveries_due on webhook_deliveries (next_attempt_at) where status = 'pending';
create index webhook_deliveries_leased on webhook_deliveries (lease_until) where status = 'delivering';

create table webhook_delivery_log (
    id blob primary key,
    delivery_id blob not null,
    webhook_id blob not null references app_webhooks (id) on delete cascade,
    app_id text not null,
    event_id blob references platform_events (id) on delete set null,
    event_type text not null,
    payload text not null,
    status_code integer,
    response_body text check (length(response_body) <= 10240),
    response_headers text,
    delivery_attempt integer not null,
    delivered_at integer not null,
    response_time_ms integer,
    success integer not null,
    error_message text
) strict;
create index webhook_delivery_log_delivery on webhook_delivery_log (delivery_id, delivery_attempt);
create index webhook_delivery_log_event on webhook_delivery_log (event_id) where event_id is not null;
create index webhook_delivery_log_webhook on webhook_delivery_log (webhook_id, delivered_at desc);

create table idempotency_keys (
    app_id text not null references apps (app_id) on delete cascade,
    key text not null check (length(key) between 1 and 255),
    request_hash blob not null,
    response text not null,
    expires_at integer not null,
    primary key (app_id, key)
) strict, without rowid;
create index idempotency_keys_expiry on idempotency_keys (expires_at);

create table audit_log (
    id blob primary key,
    actor text not null,
    action text not null,
    subject text not null,
    app_id text,
    ip_address text,
    at integer not null
) strict;
create index audit_log_at on audit_log (at desc);

create table platform_events_archive (
    id blob primary key not null,
    app_id text,
    user_id text,
    event_category text,
    event_type text,
    entity_type text,
    entity_id text,
    event_data text,
    from_platform integer,
    app_offset integer,
    user_offset integer,
    broadcast_offset integer,
    ip_address text,
    user_agent text,
    timestamp integer,
    created_at integer
) strict;
create table platform_notifications_archive (
    id blob primary key not null,
    app_id text,
    external_id text,
    user_id text,
    title text,
    body text,
    notification_type text,
    priority text,
    priority_rank integer,
    action_url text,
    action_label text,
    image_url text,
    icon_url text,
    context_data text,
    expires_at integer,
    created_at integer,
    updated_at integer
) strict;
