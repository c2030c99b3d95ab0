-- See migrations/postgres/0002_feed.sql. SQLite adds no `not null` column without a default, so the table is made anew.

create table notification_state_new (
    id blob primary key,
    notification_id blob not null references platform_notifications (id) on delete cascade,
    user_id text not null,
    app_id text not null,
    urgency integer not null check (urgency between 0 and 3),
    expires_at integer,
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
insert into notification_state_new
select s.id, s.notification_id, s.user_id, n.app_id, 3 - n.priority_rank, n.expires_at, s.status, s.sent_at,
    s.delivered_at, s.read_at, s.dismissed_at, s.clicked_at, s.expired_at, s.dismissed_from, s.click_action,
    n.created_at, s.updated_at
from notification_state s
join platform_notifications n on n.id = s.notification_id;
drop table notification_state;
alter table notification_state_new rename to notification_state;

create index notification_state_feed on notification_state
    (user_id, status, urgency, created_at, notification_id);
create index notification_state_app_feed on notification_state
    (user_id, app_id, status, urgency, created_at, notification_id);
create index notification_state_due on notification_state (expires_at)
    where expires_at is not null and status in ('unread', 'read', 'clicked');
drop index platform_notifications_feed;
drop index platform_notifications_expiry;
