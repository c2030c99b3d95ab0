//! What a run found: a table for people, JSON for machines, and two runs side by side.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{
    Failure,
    measure::{Cost, Latency, Second, Totals},
};

/// A run, whole.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    pub scenario: String,
    /// The command line, credentials left out.
    pub command: String,
    pub began_at: String,
    pub machine: String,
    pub connections: u64,
    pub seconds: f64,
    pub totals: Totals,
    /// What the server's processes cost while it was measured; memory is what there was at the end.
    pub server: Option<Cost>,
    /// What the tool itself cost. A tool that takes a core is the bottleneck.
    pub client: Option<Cost>,
    /// Figures of this scenario alone: name, value, unit.
    pub figures: Vec<(String, f64, String)>,
    pub by_second: Vec<Second>,
}

impl Report {
    /// Name, value and unit of everything there is.
    pub fn rows(&self) -> Vec<(String, f64, String)> {
        let mut rows = Vec::new();
        let mut add = |name: &str, value: f64, unit: &str| rows.push((name.to_owned(), value, unit.to_owned()));
        let Totals { delivered, lost, repeated, closed, requests, refused, delivery, answer } = self.totals;
        add("connections", self.connections as f64, "");
        add("measured", self.seconds, "s");
        if requests > 0 {
            add("requests", requests as f64 / self.seconds, "/s");
        }
        if delivered > 0 {
            add("deliveries", delivered as f64 / self.seconds, "/s");
        }
        let latency = |what: &str, latency: Latency, rows: &mut Vec<(String, f64, String)>| {
            if latency.count > 0 {
                for (name, us) in [
                    ("p50", latency.p50_us),
                    ("p90", latency.p90_us),
                    ("p99", latency.p99_us),
                    ("p99.9", latency.p999_us),
                    ("max", latency.max_us),
                ] {
                    rows.push((format!("{what} {name}"), us as f64 / 1000.0, "ms".to_owned()));
                }
            }
        };
        latency("answer", answer, &mut rows);
        latency("delivery", delivery, &mut rows);
        let mut add = |name: &str, value: f64, unit: &str| rows.push((name.to_owned(), value, unit.to_owned()));
        if let Some(server) = self.server {
            add("server CPU", server.cpu_seconds / self.seconds * 100.0, "% of a core");
            add("server memory", server.memory_kib as f64 / 1024.0, "MiB");
            if delivered > 0 {
                add("server CPU a million deliveries", server.cpu_seconds / delivered as f64 * 1e6, "s");
            }
            if requests > 0 {
                add("server CPU a million requests", server.cpu_seconds / requests as f64 * 1e6, "s");
            }
        }
        if let Some(client) = self.client {
            add("tool CPU", client.cpu_seconds / self.seconds * 100.0, "% of a core");
        }
        add("offsets lost", lost as f64, "");
        add("offsets repeated", repeated as f64, "");
        add("sockets closed by the hub", closed as f64, "");
        add("requests refused", refused as f64, "");
        rows.extend(self.figures.iter().cloned());
        rows
    }

    pub fn print(&self) {
        println!("\n{} · {} · {}", self.scenario, self.began_at, self.machine);
        println!("{}", self.command);
        for (name, value, unit) in self.rows() {
            println!("  {name:<34} {:>14} {unit}", number(value));
        }
    }

    /// # Errors
    /// Where it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(self).map_err(|error| Failure::Answer(error.to_string()))?;
        Ok(std::fs::write(path, text)?)
    }

    /// # Errors
    /// Where it is no report.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        serde_json::from_str(&std::fs::read_to_string(path)?)
            .map_err(|error| Failure::Answer(format!("{}: {error}", path.display())))
    }
}

/// Two runs side by side, and the second as a ratio to the first.
pub fn compare(a: &Report, b: &Report) {
    println!("A  {} · {} · {}\nB  {} · {} · {}", a.scenario, a.began_at, a.command, b.scenario, b.began_at, b.command);
    println!("  {:<34} {:>14} {:>14} {:>8}", "", "A", "B", "B / A");
    let of_b = b.rows();
    for (name, value, unit) in a.rows() {
        let Some((_, other, _)) = of_b.iter().find(|(other, ..)| *other == name) else { continue };
        let ratio = if value == 0.0 { "–".to_owned() } else { format!("{:.2}", other / value) };
        println!("  {name:<34} {:>14} {:>14} {ratio:>8}  {unit}", number(value), number(*other));
    }
}

/// As many digits as say something.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// The machine in a few words.
pub fn machine() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} cores, {}", model.map_or("unknown", |(_, name)| name.trim()))
}
