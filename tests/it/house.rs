//! The structure of the code: imports run one way, every file says what it owns, and each library is used in its folder
//! alone.

mod circles;

use std::{
    fs,
    path::{Path, PathBuf},
};

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut found = Vec::new();
    let mut folders = vec![root];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    found
}

/// The folders and crates that each folder may not import.
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("actors/src", &["oriva_hub::", "sqlx", "redis", "reqwest", "actix_web::"]),
    ("src/http", &["sqlx", "redis", "reqwest", "store::postgres", "store::sqlite", "crate::server", "crate::cli"]),
    (
        "src/hub",
        &[
            "actix_web",
            "actix_http",
            "sqlx",
            "redis",
            "reqwest",
            "crate::http",
            "crate::server",
            "crate::cli",
            "store::postgres",
            "store::sqlite",
        ],
    ),
    (
        "src/store",
        &["crate::http", "crate::hub", "crate::server", "crate::cli", "crate::auth", "crate::workers", "actix"],
    ),
    ("src/store/batch", &["sqlx", "sql::", "sqlite", "postgres"]),
    ("src/store/sql", &["sqlite", "postgres", "sqlx_pg"]),
    ("src/store/postgres", &["sqlite"]),
    ("src/store/sqlite", &["postgres", "PgConnection", "sqlx_pg"]),
    ("src/archive", &["crate::http", "crate::hub", "crate::server", "crate::cli", "crate::store", "sqlx", "actix"]),
    ("src/auth", &["crate::http", "crate::hub", "crate::server", "crate::cli", "sqlx", "actix_web"]),
    ("src/limits", &["crate::http", "crate::hub", "crate::server", "crate::cli", "crate::store", "sqlx", "actix"]),
    (
        "src/redis_client",
        &["crate::http", "crate::hub", "crate::server", "crate::cli", "crate::store", "sqlx", "actix"],
    ),
    ("src/bus", &["crate::http", "crate::hub", "crate::server", "crate::cli", "crate::store", "sqlx", "actix_web"]),
    (
        "src/presence",
        &["crate::http", "crate::hub", "crate::server", "crate::cli", "crate::store", "sqlx", "actix_web"],
    ),
    ("src/config", &["crate::http", "crate::hub", "crate::server", "crate::cli", "crate::store", "sqlx", "actix"]),
    ("src/telemetry", &["crate::http", "crate::hub", "crate::server", "crate::cli", "crate::store", "sqlx"]),
    ("src/workers", &["crate::http", "crate::server", "crate::cli", "sqlx", "actix_web"]),
    ("src/cli", &["crate::http", "sqlx", "store::postgres", "store::sqlite", "actix_web"]),
    // model ← protocol ← ports ← {handles, messages} ← {socket loop, session, registry} ← shard ← realtime.
    ("actors/src/model", &["crate::protocol", "crate::ports", "actix"]),
    ("actors/src/protocol", &["crate::ports", "crate::session", "crate::registry", "crate::socket", "actix"]),
    ("actors/src/ports", &["crate::session", "crate::registry", "crate::socket", "crate::webhooks", "actix"]),
    ("actors/src/socket_loop", &["crate::registry", "crate::shard", "crate::realtime"]),
    ("actors/src/session", &["crate::registry", "crate::shard", "crate::realtime"]),
    ("actors/src/registry", &["crate::shard", "crate::realtime"]),
    ("actors/src/webhooks", &["crate::session", "crate::registry", "crate::socket", "crate::shard", "crate::realtime"]),
];

#[test]
fn imports_run_one_way() {
    for &(room, forbidden) in FORBIDDEN {
        for (path, text) in sources(room).into_iter().filter(|(path, _)| !path.ends_with("tests.rs")) {
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or(&text);
            for line in use_lines(code) {
                for &word in forbidden {
                    assert!(!line.contains(word), "{}: {room} must not import {word}: {line}", path.display());
                }
            }
        }
    }
}

/// Each `use` with its tree on one line.
fn use_lines(code: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut open: Option<String> = None;
    for line in code.lines().map(str::trim) {
        let is_import = line.starts_with("use ") || (line.starts_with("pub") && line.contains(" use "));
        if open.is_none() && is_import {
            open = Some(String::new());
        }
        if let Some(text) = &mut open {
            text.push_str(line);
            if line.ends_with(';') {
                // `crate::{auth::X, http::Y}` names crate::http as much as `crate::http::Y` does.
                let text = text.replace("crate::{", "crate::{,").replace([' ', '\n'], "");
                let text = if text.contains("crate::{") { text.replace(',', " crate::") } else { text };
                lines.push(text);
                open = None;
            }
        }
    }
    lines
}

#[test]
fn a_grouped_import_is_seen_through() {
    for visibility in ["", "pub ", "pub(super) ", "pub(in crate::a) "] {
        let lines = use_lines(&format!("{visibility}use crate::{{\n    auth::Caller,\n    http::Problem,\n}};\n"));
        assert!(lines[0].contains("crate::http"), "{lines:?}");
    }
}

#[test]
fn the_websocket_protocol_stays_with_the_socket() {
    for (path, text) in sources("actors/src").into_iter().chain(sources("src")) {
        let imports_it = use_lines(&text).iter().any(|line| line.contains("actix_web_actors"));
        assert!(!imports_it || path.components().any(|part| part.as_os_str() == "socket"), "{}", path.display());
    }
}

#[test]
fn every_file_opens_with_what_it_owns() {
    for folder in ["src", "actors/src", "tests", "benches"] {
        for (path, text) in sources(folder) {
            assert!(text.starts_with("//! "), "{} opens with //!", path.display());
        }
    }
}

/// docs/OPERATING.md explains every message that the log has at error level.
#[test]
fn every_error_of_the_log_says_what_to_do() {
    let explained = include_str!("../../docs/OPERATING.md");
    let mut count = 0;
    for (path, text) in [sources("src"), sources("actors/src")].concat() {
        for call in text.split("tracing::error!(").skip(1) {
            let call = &call[..call.find(");").or(call.find("),")).unwrap_or(call.len())];
            let message = call.rsplit('"').nth(1).unwrap();
            assert!(explained.contains(&format!("| `{message}` |")), "{}: {message}", path.display());
            count += 1;
        }
    }
    assert!(count >= 9, "{count}");
}
