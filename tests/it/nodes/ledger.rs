//! Random faults, repeatable by their seed: every socket gets all acknowledged events whatever happens.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::harness::{
    Database, HubProcess, PostgresServer, Proxy, RedisServer,
    ledger::{Addresses, Load, Watcher, settle},
    process::create_app,
};

/// How long faults go on.
const STORM: Duration = Duration::from_secs(25);
/// `ORIVA_TEST_SEED` repeats an earlier run.
const SEED: u64 = 20_260_101;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    KillRedis,
    FreezeRedis,
    CutOneNode,
    KillNode,
    StopNode,
    RestartPostgres,
}

const FAULTS: [Fault; 6] =
    [Fault::KillRedis, Fault::FreezeRedis, Fault::CutOneNode, Fault::KillNode, Fault::StopNode, Fault::RestartPostgres];

struct Storm {
    postgres: PostgresServer,
    database: Database,
    redis: RedisServer,
    proxy: Proxy,
    /// The second one reaches Redis through the proxy.
    nodes: Vec<HubProcess>,
    addresses: Addresses,
}

impl Storm {
    async fn start() -> Self {
        let postgres = PostgresServer::start().await;
        let database = Database::on(&postgres).await;
        let redis = RedisServer::start().await;
        let proxy = Proxy::to(redis.port()).await;
        let mut storm =
            Self { postgres, database, redis, proxy, nodes: Vec::new(), addresses: Arc::new(Mutex::new(Vec::new())) };
        for index in 0..3 {
            let node = storm.node(index).await;
            storm.nodes.push(node);
        }
        storm.announce();
        storm
    }

    async fn node(&self, index: usize) -> HubProcess {
        let url = if index == 1 { self.proxy.url() } else { self.redis.url() };
        let window = ("ORIVA_HUB__SERVER__SHUTDOWN_TIMEOUT_SECONDS", "2");
        HubProcess::start(&self.database, &[("REDIS_URL", &url), window]).await
    }

    /// Gives publishers the present addresses, as a load balancer would.
    fn announce(&self) {
        *self.addresses.lock().unwrap() = self.nodes.iter().map(|node| node.addr).collect();
    }

    async fn strike(&mut self, fault: Fault, random: &mut StdRng) {
        let a_while = Duration::from_millis(random.random_range(300..3000));
        let index = random.random_range(0..self.nodes.len());
        match fault {
            Fault::KillRedis => {
                self.redis.kill();
                tokio::time::sleep(a_while).await;
                self.redis.start_again().await;
            }
            Fault::FreezeRedis => {
                self.redis.signal("-STOP");
                tokio::time::sleep(a_while * 2).await;
                self.redis.signal("-CONT");
            }
            Fault::CutOneNode => {
                self.proxy.cut();
                tokio::time::sleep(a_while * 2).await;
                self.proxy.heal();
            }
            Fault::KillNode => {
                self.addresses.lock().unwrap().remove(index);
                let old = self.nodes.remove(index);
                old.kill();
                let new = self.node(index).await;
                self.nodes.insert(index, new);
                self.announce();
            }
            Fault::StopNode => {
                self.nodes[index].signal("-TERM");
                self.addresses.lock().unwrap().remove(index);
                let new = self.node(index).await;
                let old = std::mem::replace(&mut self.nodes[index], new);
                assert_eq!(old.exit_code().await, Some(0));
                self.announce();
            }
            Fault::RestartPostgres => {
                self.postgres.stop();
                tokio::time::sleep(a_while / 2).await;
                self.postgres.go();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_published_is_what_every_socket_was_sent() {
    let seed = std::env::var("ORIVA_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(SEED);
    let mut random = StdRng::seed_from_u64(seed);
    let mut storm = Storm::start().await;
    let app = create_app(&storm.database, storm.nodes[0].addr, "a", false);
    let token = app.token_for("alice", 3600).await;
    let mut watchers = Vec::new();
    for n in 0..8 {
        let credential = if n % 4 == 3 { &app.key } else { &token };
        watchers.push(Watcher::start(&storm.addresses, n, credential).await);
    }
    let load = Load::start(&app, &storm.addresses, "alice", 6, Duration::from_millis(4));
    let begun = Instant::now();
    let mut happened = Vec::new();
    while begun.elapsed() < STORM {
        let fault = FAULTS[random.random_range(0..FAULTS.len())];
        eprintln!("storm {seed}: {:.1} s: {fault:?}", begun.elapsed().as_secs_f32());
        storm.strike(fault, &mut random).await;
        happened.push(fault);
        tokio::time::sleep(Duration::from_millis(random.random_range(100..1500))).await;
    }
    let ledger = load.stop().await;
    let refused = ledger.refused();
    assert!(refused.iter().all(|status| *status == 503), "{refused:?}");
    let count = settle(&ledger, &watchers).await;
    let acknowledged = ledger.acknowledged().len();
    eprintln!(
        "storm {seed}: {happened:?}: {count} events on {} sockets, {acknowledged} acknowledged, {} refused, {} unanswered",
        watchers.len(),
        refused.len(),
        ledger.unanswered()
    );
    assert!(acknowledged > 500, "there was load: {acknowledged}");
}
