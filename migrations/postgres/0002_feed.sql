-- A feed is read from notification_state alone, by index, whatever its length: what a feed is sorted and filtered by
-- stands beside the status, and the content is looked up for the page that is shown. None of it ever changes but the
-- status, so the two tables cannot come apart.

alter table notification_state
    add column app_id text,
    add column urgency smallint,
    add column expires_at timestamptz;
update notification_state s
set app_id = n.app_id, urgency = 3 - n.priority_rank, expires_at = n.expires_at, created_at = n.created_at
from platform_notifications n
where n.id = s.notification_id;
alter table notification_state
    alter column app_id set not null,
    alter column urgency set not null,
    add check (urgency between 0 and 3);
comment on column notification_state.app_id is 'As in platform_notifications.';
comment on column notification_state.urgency is '3 urgent to 0 low: the feed''s order.';
comment on column notification_state.expires_at is 'As in platform_notifications.';
comment on column notification_state.created_at is 'As in platform_notifications.';

-- Read backwards: urgent first, then the newest.
create index notification_state_feed on notification_state
    (user_id, status, urgency, created_at, notification_id);
create index notification_state_app_feed on notification_state
    (user_id, app_id, status, urgency, created_at, notification_id);
create index notification_state_due on notification_state (expires_at)
    where expires_at is not null and status in ('unread', 'read', 'clicked');
drop index notification_state_unread;
drop index platform_notifications_feed;
drop index platform_notifications_expiry;

-- Without a look at the other table, which a tenant's every row would cost.
drop policy tenant_app on notification_state;
create policy tenant_app on notification_state to oriva_hub_tenant
    using (app_id = nullif(current_setting('oriva.app_id', true), ''));

-- A moment that the statement sets itself stays: the answer to a change says the same as a later look.
create or replace function hub_touch_updated_at() returns trigger language plpgsql as $$
begin
    if new.updated_at is not distinct from old.updated_at then
        new.updated_at := now();
    end if;
    return new;
end
$$;
