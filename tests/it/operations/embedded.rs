//! An embedded store and what happens to its file: a full disk, a lock that somebody keeps, a file that is moved away, a link.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use sqlx::{Connection as _, Executor as _, SqliteConnection};

use super::readiness;
use crate::harness::{
    App, Backend, Database, HubProcess, eventually,
    process::{command, create_app, free_addr},
};

async fn status(app: &App) -> u16 {
    app.post(&App::event("alice", "x")).await.status
}

/// Runs a hub whose store is on a file system of this size that only it has. Returns where this process sees that.
async fn on_small_disk(database: &Database, size: &str) -> (HubProcess, PathBuf) {
    let (addr, disk) = (free_addr(), database.folder.path().join("disk"));
    std::fs::create_dir(&disk).unwrap();
    let url = format!("sqlite://{}/hub.db", disk.display());
    let serve = command(database, &["serve", "--bind", &addr.to_string(), "--database-url", &url]);
    let mut unshare = Command::new("unshare");
    unshare
        .args(["--map-root-user", "--mount", "sh", "-c"])
        .arg(format!("mount -t tmpfs -o size={size} none {} && exec \"$0\" \"$@\"", disk.display()));
    unshare.arg(serve.get_program()).args(serve.get_args());
    unshare
        .env_clear()
        .envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .env("PATH", "/usr/bin:/bin");
    unshare.env("ORIVA_HUB__RATE_LIMITS__ENABLED", "false").current_dir(database.folder.path());
    let hub = HubProcess::of(unshare, addr).await;
    let seen = PathBuf::from(format!("/proc/{}/root{}", hub.child.id(), disk.display()));
    (hub, seen)
}

/// The writing connection must not stay in a transaction whose rollback failed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writing_goes_on_once_a_full_disk_has_room_again() {
    let database = Database::new(Backend::Sqlite).await;
    let (hub, disk) = on_small_disk(&database, "6m").await;
    let app = crate::harness::hub::admin_app(hub.addr, "a").await;
    assert_eq!(app.publish("alice", 1).await, 1);
    let filler = disk.join("filler");
    for round in 0..2 {
        let mut file = std::fs::File::create(&filler).unwrap();
        let full = std::io::copy(&mut std::io::repeat(b'x'), &mut file).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        drop(file);
        let mut event = App::event("alice", "large");
        event["event_data"] = serde_json::json!({"text": "x".repeat(60_000)});
        eventually("it is full", async || app.post(&event).await.status == 503).await;
        assert_eq!(readiness(hub.addr).await, (503, "store".to_owned()), "round {round}");
        assert_eq!(app.events("").await.status, 200, "what is there can be read");
        std::fs::remove_file(&filler).unwrap();
        eventually("ready", async || readiness(hub.addr).await.0 == 200).await;
        assert_eq!(status(&app).await, 200);
    }
    let log = hub.log();
    assert!(log.contains("the disk of the database is full: make room") && !log.contains("ERROR"), "{log}");
    let dense: Vec<u64> = {
        let mut socket = app.connect_app().await;
        socket.resume(0).await.0.iter().map(|event| event["offset"].as_u64().unwrap()).collect()
    };
    assert_eq!(dense, (1..=dense.len() as u64).collect::<Vec<_>>());
}

/// A backup tool, or a shell that was forgotten in a transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_somebody_keeps_is_not_ready() {
    let database = Database::new(Backend::Sqlite).await;
    let hub = HubProcess::start(&database, &[]).await;
    let app = create_app(&database, hub.addr, "a", false);
    app.publish("alice", 1).await;
    let mut shell = SqliteConnection::connect(&database.url).await.unwrap();
    shell.execute("begin immediate").await.unwrap();
    let waiting = {
        let app = app.clone();
        tokio::spawn(async move { status(&app).await })
    };
    eventually("not ready", async || readiness(hub.addr).await == (503, "store".to_owned())).await;
    assert_eq!(waiting.await.unwrap(), 503);
    assert_eq!(readiness(hub.addr).await.0, 503, "and stays so");
    shell.execute("rollback").await.unwrap();
    eventually("ready", async || readiness(hub.addr).await.0 == 200).await;
    assert_eq!(status(&app).await, 200);
    assert!(hub.log().contains("a transaction that was left open"), "{}", hub.log());
}

/// What SQLite writes into a file without a name is lost, and it does not notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_moved_away_takes_nothing() {
    let database = Database::new(Backend::Sqlite).await;
    let hub = HubProcess::start(&database, &[]).await;
    let app = create_app(&database, hub.addr, "a", false);
    app.publish("alice", 1).await;
    for name in ["hub.db", "hub.db-wal"] {
        let (file, away) = (database.folder.path().join(name), database.folder.path().join("away"));
        std::fs::rename(&file, &away).unwrap();
        assert_eq!(status(&app).await, 503, "{name}");
        eventually("not ready", async || readiness(hub.addr).await == (503, "store".to_owned())).await;
        std::fs::rename(&away, &file).unwrap();
        eventually("ready", async || readiness(hub.addr).await.0 == 200).await;
        assert_eq!(status(&app).await, 200, "{name}");
    }
    assert!(hub.log().contains("removed or replaced while the hub runs"), "{}", hub.log());
    hub.kill();
    let hub = HubProcess::start(&database, &[]).await;
    assert_eq!(app.at(hub.addr).events("").await.body["total"], 3, "all that was acknowledged");
}

fn serve(database: &Database, file: &Path) -> std::process::Output {
    let url = format!("sqlite://{}", file.display());
    command(database, &["serve", "--bind", "127.0.0.1:0", "--database-url", &url]).output().unwrap()
}

/// One hub for a store, by whatever name it is opened. Two stores in one folder are two, and keep their own secrets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_has_one_hub_and_its_own_secrets() {
    let database = Database::new(Backend::Sqlite).await;
    let folder = database.folder.path();
    let hub = HubProcess::start(&database, &[]).await;
    std::os::unix::fs::symlink("hub.db", folder.join("soft.db")).unwrap();
    std::fs::hard_link(folder.join("hub.db"), folder.join("hard.db")).unwrap();
    for name in ["hub.db", "soft.db", "hard.db"] {
        let said = String::from_utf8(serve(&database, &folder.join(name)).stderr).unwrap();
        assert!(said.contains("served by another hub"), "{name}: {said}");
    }
    let mut beside = Database::new(Backend::Sqlite).await;
    beside.url = format!("sqlite://{}/hub.sqlite", folder.display());
    let own = [("ORIVA_HUB__AUTH__ADMIN_KEY", ""), ("ORIVA_HUB__AUTH__TOKEN_SECRET", "")];
    let other = HubProcess::start(&beside, &own).await;
    assert!(folder.join("hub.sqlite.secrets.toml").exists());
    drop((hub, other));
}

#[tokio::test]
async fn what_cannot_be_written_is_named() {
    let database = Database::new(Backend::Sqlite).await;
    // Nobody, not even root, makes files there.
    let said = String::from_utf8(serve(&database, Path::new("/proc/oriva/hub.db")).stderr).unwrap();
    assert!(said.contains("database.url: /proc/oriva cannot be written"), "{said}");
    std::fs::write(database.folder.path().join("text.db"), "no database at all, but some text of some length").unwrap();
    let said = String::from_utf8(serve(&database, &database.folder.path().join("text.db")).stderr).unwrap();
    assert!(said.contains("text.db") && said.contains("not a database"), "{said}");
}
