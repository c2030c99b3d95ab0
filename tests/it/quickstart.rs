//! The quickstart of the original platform from beginning to end, with the real program: two apps,
//! the central app, two devices, a webhook.

use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::{
    harness::{App, Backend, Database, HubProcess, Receiver, Socket, eventually, process::create_app},
    on_both_stores,
};

on_both_stores!(the_quickstart_from_first_to_last);

/// The next frame of both devices, which must be the same.
async fn on_both(devices: &mut [Socket; 2]) -> Value {
    let [phone, desk] = devices;
    let (first, second) = (phone.frame().await, desk.frame().await);
    assert_eq!(first, second);
    first
}

fn signature(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body);
    let code = mac.finalize().into_bytes();
    code.iter().fold("sha256=".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

async fn the_quickstart_from_first_to_last(backend: Backend) {
    let database = Database::new(backend).await;
    let hub = HubProcess::start(&database, &[("ORIVA_HUB__WEBHOOKS__ALLOW_HTTP", "true")]).await;
    let core = create_app(&database, hub.addr, "oriva-core", true);
    let work_buddy = create_app(&database, hub.addr, "work-buddy", false);
    let hugo = create_app(&database, hub.addr, "hugo-ai", false);
    let alice = core.user("alice").await;
    let mut devices = [core.connect("alice").await, core.connect("alice").await];
    for device in &mut devices {
        device.subscribe(&["notification.*"]).await;
    }
    let receiver = Receiver::start().await;
    let webhook =
        work_buddy.webhook(&receiver.url("/switch"), &["notification.dismissed", "notification.expired"]).await;
    let secret = webhook["webhook_secret"].as_str().unwrap();

    // Create: an app creates a notification, and every device gets it at once.
    let reminder = json!({
        "user_id": "alice", "external_id": "session-42", "notification_type": "session_reminder", "priority": "high",
        "title": "Session with Bob", "body": "Starts in 5 minutes",
        "action_url": "workbuddy://sessions/42", "action_label": "Join", "context_data": {"session_id": 42}
    });
    let session = work_buddy.notify(&reminder).await;
    let frame = on_both(&mut devices).await;
    assert_eq!((&frame["event_type"], &frame["entity_id"]), (&json!("notification.created"), &json!(session)));
    assert_eq!(work_buddy.create(&reminder).await.code(), "duplicate_external_id");

    // Several apps: one feed, with each app's name, the most urgent first.
    let mut urgent = App::notification("alice", "Report ready");
    urgent["priority"] = json!("urgent");
    let report = hugo.notify(&urgent).await;
    on_both(&mut devices).await;
    let feed = alice.feed("").await.body;
    let shown = |n: usize| (feed["notifications"][n]["title"].clone(), feed["notifications"][n]["app_name"].clone());
    assert_eq!(
        [shown(0), shown(1)],
        [(json!("Report ready"), json!("hugo-ai")), (json!("Session with Bob"), json!("work-buddy"))]
    );
    assert_eq!(work_buddy.inbox("alice").titles("").await, ["Session with Bob"], "an app sees its own");
    assert_eq!(work_buddy.inbox("alice").get(&report).await.status, 403);

    // Click: the notification counts as read, and the app gets the action.
    let clicked = alice.patch(&report, json!({"status": "clicked", "click_action": "open"})).await.body;
    assert!(clicked["clicked_at"].is_string() && clicked["read_at"].is_string());
    let frame = on_both(&mut devices).await;
    assert_eq!(
        (&frame["event_type"], &frame["event_data"]["click_action"]),
        (&json!("notification.clicked"), &json!("open"))
    );

    // Dismiss: on one device, and so on all, with the unread counts.
    assert_eq!(alice.set(&session, "dismissed").await["dismissed_from"], "oriva-core");
    assert_eq!(on_both(&mut devices).await["event_type"], "notification.dismissed");
    assert_eq!(alice.unread().await, 0);
    assert_eq!(work_buddy.inbox("alice").get(&session).await.body["status"], "dismissed");

    // Webhook and retry: the endpoint fails at first, gets a second attempt, and verifies the signature.
    receiver.wait_for("/switch", 2).await;
    receiver.heal();
    let delivered = async || work_buddy.deliveries(&webhook["webhook_id"], "?status=succeeded").await;
    eventually("it is delivered", async || delivered().await.len() == 1).await;
    let requests = receiver.received_at("/switch");
    let attempts: Vec<_> = requests.iter().map(|request| request.header("x-oriva-delivery-attempt")).collect();
    assert_eq!(attempts, (1..=requests.len()).map(|n| n.to_string()).collect::<Vec<_>>());
    for request in &requests {
        assert_eq!(request.header("x-oriva-signature"), signature(secret, &request.raw));
        assert_eq!(request.header("webhook-id"), requests[0].header("webhook-id"));
        standardwebhooks::Webhook::new(secret).unwrap().verify(&request.raw, &request.headers).unwrap();
        assert_eq!(request.body["data"]["notification_id"], json!(session));
    }

    // Expiry: an unread notification leaves every device at its time, and the app gets the event.
    let soon = chrono::Utc::now() + chrono::Duration::milliseconds(1200);
    let mut fleeting = App::notification("alice", "Flash sale");
    fleeting["expires_at"] = json!(soon.to_rfc3339());
    let sale = work_buddy.notify(&fleeting).await;
    assert_eq!(on_both(&mut devices).await["event_type"], "notification.created");
    let frame = on_both(&mut devices).await;
    assert_eq!((&frame["event_type"], &frame["entity_id"]), (&json!("notification.expired"), &json!(sale)));
    assert!(!alice.titles("").await.contains(&"Flash sale".to_owned()));
    assert_eq!(alice.titles("?status=expired").await, ["Flash sale"]);
    eventually("the app hears of it", async || delivered().await.len() == 2).await;

    // A device that was disconnected gets all events, in order and once.
    let mut tablet = core.connect("alice").await;
    let (missed, resumed) = tablet.resume(0).await;
    let types: Vec<_> = missed.iter().map(|frame| frame["event_type"].as_str().unwrap()).collect();
    assert_eq!(
        types,
        [
            "notification.created",
            "notification.created",
            "notification.clicked",
            "notification.dismissed",
            "notification.created",
            "notification.expired"
        ]
    );
    assert_eq!(resumed["recovered"], true);
}
