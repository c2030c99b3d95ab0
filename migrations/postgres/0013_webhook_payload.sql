alter table app_webhooks add column payload text not null default 'full' check (payload in ('full', 'no_data', 'thin'));
comment on column app_webhooks.payload is 'What bodies tell of an event: full, no_data or thin.';
