-- What became of archived notifications goes with them.
create table notification_state_archive (
    id blob primary key not null,
    notification_id blob,
    user_id text,
    app_id text,
    urgency integer,
    expires_at integer,
    status text,
    sent_at integer,
    delivered_at integer,
    read_at integer,
    dismissed_at integer,
    clicked_at integer,
    expired_at integer,
    dismissed_from text,
    click_action text,
    created_at integer,
    updated_at integer
) strict;
