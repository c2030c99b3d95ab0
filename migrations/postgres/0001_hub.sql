-- The whole model: what apps publish, the streams that number it, the inbox, webhooks and their outbox.
-- See ARCHITECTURE.md ('Data'). Never edited after release: a change is a new file.

-- Two roles without login: 'service' for work of the hub itself, 'tenant' for one app's or one user's request. The hub's own
-- connection takes on one or the other, so that it is neither owner nor superuser while it works. `oriva-hub migrate` has
-- made them before this runs, or found them.
do $$
begin
    execute format('grant usage on schema %I to oriva_hub_service, oriva_hub_tenant', current_schema());
end
$$;

create table hub_meta (
    key text primary key,
    value text not null
);
comment on table hub_meta is 'What the store knows of itself: its epoch, and a revision that rises when a credential changes.';

create table apps (
    app_id text primary key check (app_id ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    name text not null check (char_length(name) between 1 and 200),
    icon_url text,
    is_active boolean not null default true,
    is_platform boolean not null default false,
    limits jsonb not null default '{}',
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
comment on table apps is 'Tenants: the central app and the third-party apps.';
comment on column apps.is_platform is 'A platform app reads and updates every user''s notifications, and its users'' tokens open all apps.';
comment on column apps.limits is 'Rate limits that differ from the configuration: {"publish": 5000, …}, requests a window.';

create table app_api_keys (
    key_id uuid primary key,
    app_id text not null references apps on delete restrict,
    key_hash bytea not null unique check (octet_length(key_hash) = 32),
    prefix text not null,
    created_at timestamptz not null default now(),
    last_used_at timestamptz,
    revoked_at timestamptz
);
comment on table app_api_keys is 'API keys; the key itself is never stored.';
comment on column app_api_keys.key_hash is 'SHA-256 of the key, which is random enough to need no slow hash.';
comment on column app_api_keys.prefix is 'The first characters, to tell keys apart by.';
create index app_api_keys_app on app_api_keys (app_id);
create index app_api_keys_revoked on app_api_keys (revoked_at) where revoked_at is not null;

create table streams (
    kind text not null check (kind in ('user', 'app', 'broadcast')),
    key text not null,
    last_offset bigint not null check (last_offset >= 0),
    primary key (kind, key)
) with (fillfactor = 70);
comment on table streams is 'The end of every stream. Raised in the transaction that writes the events, rows locked in key order.';
comment on column streams.key is 'The user''s or app''s id; empty for the one broadcast stream.';

create table platform_events (
    id uuid primary key,
    app_id text not null references apps on delete restrict,
    user_id text,
    event_category text not null check (event_category in ('notification', 'user', 'session', 'transaction')),
    event_type text not null check (char_length(event_type) between 1 and 100),
    entity_type text not null check (char_length(entity_type) between 1 and 100),
    entity_id text not null check (char_length(entity_id) between 1 and 255),
    event_data jsonb not null default '{}',
    from_platform boolean not null,
    app_offset bigint not null,
    user_offset bigint,
    broadcast_offset bigint,
    ip_address inet,
    user_agent text,
    timestamp timestamptz not null,
    created_at timestamptz not null,
    check ((user_id is null) = (user_offset is null)),
    check ((user_id is null) = (broadcast_offset is not null))
);
comment on table platform_events is 'Events, immutable.';
comment on column platform_events.user_id is 'Null in a broadcast.';
comment on column platform_events.event_type is 'Bare: created, not notification.created.';
comment on column platform_events.from_platform is 'Whether the app was a platform app then: its broadcasts are for every user.';
comment on column platform_events.timestamp is 'When the hub accepted it.';
comment on column platform_events.created_at is 'When the hub stored it.';
create unique index platform_events_app_offset on platform_events (app_id, app_offset);
create unique index platform_events_user_offset on platform_events (user_id, user_offset) where user_id is not null;
create unique index platform_events_broadcast_offset on platform_events (broadcast_offset) where broadcast_offset is not null;
create index platform_events_app_created on platform_events (app_id, created_at desc);
create index platform_events_type_created on platform_events (event_category, event_type, created_at desc);
create index platform_events_data on platform_events using gin (event_data jsonb_path_ops);

create table platform_notifications (
    id uuid primary key,
    app_id text not null references apps on delete restrict,
    external_id text check (char_length(external_id) between 1 and 255),
    user_id text not null,
    title text not null check (char_length(title) between 1 and 200),
    body text not null check (char_length(body) between 1 and 1000),
    notification_type text not null default 'general' check (char_length(notification_type) between 1 and 100),
    priority text not null default 'normal' check (priority in ('low', 'normal', 'high', 'urgent')),
    priority_rank smallint not null generated always as (
        case priority when 'urgent' then 0 when 'high' then 1 when 'normal' then 2 else 3 end
    ) stored,
    action_url text check (char_length(action_url) <= 2048),
    action_label text check (char_length(action_label) <= 50),
    image_url text check (char_length(image_url) <= 2048),
    icon_url text check (char_length(icon_url) <= 2048),
    context_data jsonb not null default '{}',
    expires_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
comment on table platform_notifications is 'Notifications: the content.';
comment on column platform_notifications.external_id is 'The app''s own id; unique within the app.';
comment on column platform_notifications.priority_rank is '0 urgent to 3 low: the feed''s order.';
create unique index platform_notifications_external_id on platform_notifications (app_id, external_id)
    where external_id is not null;
create index platform_notifications_feed on platform_notifications (user_id, priority_rank, created_at desc, id desc);
create index platform_notifications_expiry on platform_notifications (expires_at) where expires_at is not null;

create table notification_state (
    id uuid primary key,
    notification_id uuid not null references platform_notifications on delete cascade,
    user_id text not null,
    status text not null default 'unread' check (status in ('unread', 'read', 'clicked', 'dismissed', 'expired')),
    sent_at timestamptz,
    delivered_at timestamptz,
    read_at timestamptz,
    dismissed_at timestamptz,
    clicked_at timestamptz,
    expired_at timestamptz,
    dismissed_from text,
    click_action text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (notification_id, user_id)
);
comment on table notification_state is 'Notifications: what became of them with their user.';
comment on column notification_state.delivered_at is 'When a socket of the user was handed it.';
create index notification_state_unread on notification_state (user_id) where status = 'unread';

create table app_webhooks (
    id uuid primary key,
    app_id text not null references apps on delete restrict,
    webhook_url text not null check (char_length(webhook_url) <= 2048),
    secret bytea not null,
    previous_secret bytea,
    previous_secret_expires_at timestamptz,
    subscribed_events text[] not null check (cardinality(subscribed_events) between 1 and 100),
    is_active boolean not null default true,
    disabled_reason text,
    description text,
    last_delivery_at timestamptz,
    last_success_at timestamptz,
    last_failure_at timestamptz,
    consecutive_failures integer not null default 0,
    total_deliveries bigint not null default 0,
    total_failures bigint not null default 0,
    max_retries smallint not null default 5 check (max_retries between 1 and 10),
    retry_backoff_seconds smallint not null default 1 check (retry_backoff_seconds between 1 and 60),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
comment on table app_webhooks is 'URLs that apps hear of events at.';
comment on column app_webhooks.secret is 'Encrypted under auth.encryption_key.';
create index app_webhooks_app on app_webhooks (app_id);

create table webhook_deliveries (
    id uuid primary key,
    webhook_id uuid not null references app_webhooks on delete cascade,
    app_id text not null,
    event_id uuid not null,
    event_type text not null,
    status text not null default 'pending'
        check (status in ('pending', 'delivering', 'succeeded', 'failed', 'cancelled')),
    attempts smallint not null default 0,
    next_attempt_at timestamptz not null default now(),
    lease_owner uuid,
    lease_until timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (webhook_id, event_id)
);
comment on table webhook_deliveries is 'The outbox: events owed to webhooks, written in the event''s own transaction.';
create index webhook_deliveries_due on webhook_deliveries (next_attempt_at) where status = 'pending';
create index webhook_deliveries_leased on webhook_deliveries (lease_until) where status = 'delivering';

create table webhook_delivery_log (
    id uuid primary key,
    delivery_id uuid not null,
    webhook_id uuid not null references app_webhooks on delete cascade,
    app_id text not null,
    event_id uuid references platform_events on delete set null,
    event_type text not null,
    payload jsonb not null,
    status_code smallint,
    response_body text check (octet_length(response_body) <= 10240),
    response_headers jsonb,
    delivery_attempt smallint not null,
    delivered_at timestamptz not null,
    response_time_ms integer,
    success boolean not null,
    error_message text
);
comment on table webhook_delivery_log is 'One row an attempt.';
create index webhook_delivery_log_delivery on webhook_delivery_log (delivery_id, delivery_attempt);
create index webhook_delivery_log_event on webhook_delivery_log (event_id) where event_id is not null;
create index webhook_delivery_log_webhook on webhook_delivery_log (webhook_id, delivered_at desc);

create table idempotency_keys (
    app_id text not null references apps on delete cascade,
    key text not null check (char_length(key) between 1 and 255),
    request_hash bytea not null,
    response text not null,
    expires_at timestamptz not null,
    primary key (app_id, key)
);
comment on table idempotency_keys is 'Answers to be given again for 24 h.';
create index idempotency_keys_expiry on idempotency_keys (expires_at);

create table audit_log (
    id uuid primary key,
    actor text not null,
    action text not null,
    subject text not null,
    app_id text,
    ip_address inet,
    at timestamptz not null
);
comment on table audit_log is 'Who did what to what: keys, apps and webhooks; notifications created and changed, without content.';
create index audit_log_at on audit_log (at desc);

create table platform_events_archive (like platform_events including defaults including comments);
alter table platform_events_archive add primary key (id);
comment on table platform_events_archive is 'Events past retention; cold, not read by the API.';
create table platform_notifications_archive (like platform_notifications including defaults including comments);
alter table platform_notifications_archive add primary key (id);
comment on table platform_notifications_archive is 'Notifications past retention; cold, not read by the API.';

create function hub_touch_updated_at() returns trigger language plpgsql as $$
begin
    new.updated_at := now();
    return new;
end
$$;

do $$
declare
    table_name text;
begin
    foreach table_name in array array[
        'apps', 'platform_notifications', 'notification_state', 'app_webhooks', 'webhook_deliveries'
    ] loop
        execute format(
            'create trigger touch_updated_at before update on %I for each row execute function hub_touch_updated_at()',
            table_name
        );
    end loop;
end
$$;

-- Row level security. The tenant role sees what its settings name and nothing where they are not set; a query that
-- forgets its own condition returns nothing of others.
do $$
declare
    table_name text;
begin
    foreach table_name in array array[
        'hub_meta', 'apps', 'app_api_keys', 'streams', 'platform_events', 'platform_notifications',
        'notification_state', 'app_webhooks', 'webhook_deliveries', 'webhook_delivery_log', 'idempotency_keys',
        'audit_log', 'platform_events_archive', 'platform_notifications_archive'
    ] loop
        execute format('alter table %I enable row level security', table_name);
        execute format('create policy service on %I to oriva_hub_service using (true) with check (true)', table_name);
        execute format('grant select, insert, update, delete on %I to oriva_hub_service', table_name);
        execute format('grant select, insert, update, delete on %I to oriva_hub_tenant', table_name);
    end loop;

    -- One app's rows, by oriva.app_id.
    foreach table_name in array array[
        'apps', 'app_api_keys', 'platform_events', 'platform_notifications', 'app_webhooks', 'webhook_deliveries',
        'webhook_delivery_log', 'idempotency_keys', 'audit_log'
    ] loop
        execute format(
            'create policy tenant_app on %I to oriva_hub_tenant '
            'using (app_id = nullif(current_setting(''oriva.app_id'', true), ''''))',
            table_name
        );
    end loop;

    -- One user's rows, by oriva.user_id.
    foreach table_name in array array['platform_events', 'platform_notifications', 'notification_state'] loop
        execute format(
            'create policy tenant_user on %I to oriva_hub_tenant '
            'using (user_id = nullif(current_setting(''oriva.user_id'', true), ''''))',
            table_name
        );
    end loop;
end
$$;

create policy tenant_app on notification_state to oriva_hub_tenant using (
    exists (select from platform_notifications n where n.id = notification_id)
);
create policy tenant on streams to oriva_hub_tenant using (
    (kind = 'app' and key = nullif(current_setting('oriva.app_id', true), ''))
    or (kind = 'user' and key = nullif(current_setting('oriva.user_id', true), ''))
);
