//! The Helm chart: rendered by the engine that Helm uses, and held against the schemas of Kubernetes. Neither Helm nor a cluster
//! takes part.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use serde_json::Value;

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/helm");
const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/operations/helm");
/// The oldest version that the chart is for.
const KUBERNETES: &str = "1.30";

fn render(values: &[&str]) -> Result<Vec<Value>, String> {
    let folder = tempfile::TempDir::new().unwrap();
    let rendered = Command::new("go")
        .args(["run", &format!("{TOOLS}/render.go"), CHART])
        .args(values)
        .env("GO111MODULE", "off")
        .env("GOPATH", "/usr/share/gocode")
        .env("GOCACHE", concat!(env!("CARGO_MANIFEST_DIR"), "/target/test-tools/go-cache"))
        .env("GOFLAGS", "-mod=mod")
        .current_dir(folder.path())
        .output()
        .expect("go: run the tests with ./scripts/test");
    if !rendered.status.success() {
        return Err(String::from_utf8(rendered.stderr).unwrap());
    }
    let python = std::env::var("ORIVA_TEST_PYTHON").expect("ORIVA_TEST_PYTHON: run the tests with ./scripts/test");
    let mut validate = Command::new(python)
        .args([&format!("{TOOLS}/validate.py"), KUBERNETES])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    validate.stdin.take().unwrap().write_all(&rendered.stdout).unwrap();
    let output = validate.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&rendered.stdout));
    Ok(serde_json::from_slice(&output.stdout).unwrap())
}

fn kinds(objects: &[Value]) -> Vec<&str> {
    objects.iter().map(|one| one["kind"].as_str().unwrap()).collect()
}

fn find<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    objects.iter().find(|one| one["kind"] == kind).unwrap()
}

/// The environment of a pod's container; every variable must be one that the hub knows.
fn environment(pod: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let variables = pod["spec"]["containers"][0]["env"].as_array().unwrap();
    variables.iter().map(|one| (text(&one["name"]), text(&one["value"]))).collect()
}

#[test]
fn the_chart_renders_what_kubernetes_takes() {
    let nodes = render(&["serviceMonitor.enabled=true", "ingress.enabled=true", "ingress.tlsSecretName=tls"]).unwrap();
    assert_eq!(kinds(&nodes), ["Deployment", "Ingress", "Job", "PodDisruptionBudget", "Service", "ServiceMonitor"]);
    let pod = &find(&nodes, "Deployment")["spec"]["template"];
    assert_eq!(pod["spec"]["terminationGracePeriodSeconds"], 3 + 5 + 30 + 5);
    assert_eq!(pod["spec"]["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"], 3);
    assert_eq!(pod["metadata"]["labels"], find(&nodes, "Service")["spec"]["selector"], "the service finds its pods");
    assert_eq!(find(&nodes, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"], pod["metadata"]["labels"]);

    let job = render(&["migrate.grantTo=hub"]).unwrap();
    let args = &find(&job, "Job")["spec"]["template"]["spec"]["containers"][0]["args"];
    assert_eq!(*args, serde_json::json!(["migrate", "--grant-to", "hub"]));

    let one = render(&["store=sqlite", "redis=false", "persistence.storageClass=fast"]).unwrap();
    assert_eq!(kinds(&one), ["Service", "StatefulSet"]);
    let set = &find(&one, "StatefulSet")["spec"];
    assert_eq!(set["replicas"], 1);
    assert_eq!(set["volumeClaimTemplates"][0]["spec"]["storageClassName"], "fast");

    assert!(render(&["store=mysql"]).unwrap_err().contains("store must be postgres or sqlite"));
}

/// The hub reads what the chart gives it, secrets from files.
#[test]
fn the_hub_takes_the_charts_settings() {
    for values in [&["store=postgres"][..], &["store=sqlite"], &["redis=false"]] {
        let objects = render(values).unwrap();
        let shape =
            objects.iter().find(|one| ["Deployment", "StatefulSet"].contains(&one["kind"].as_str().unwrap())).unwrap();
        let folder = tempfile::TempDir::new().unwrap();
        let secrets = [
            ("admin-key", "an admin key of at least 32 characters"),
            ("token-secret", "a token secret of at least 32 characters"),
            ("encryption-key", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
            ("database-url", "postgres://hub:secret@db/hub"),
            ("redis-url", "redis://cache"),
        ];
        for (name, secret) in secrets {
            std::fs::write(folder.path().join(name), format!("{secret}\n")).unwrap();
        }
        let place = folder.path().display().to_string();
        let variables = environment(&shape["spec"]["template"]).into_iter().map(|(name, value)| {
            (name, value.replace("/secrets/", &format!("{place}/")).replace("///data/", &format!("//{place}/")))
        });
        let check = Command::new(env!("CARGO_BIN_EXE_oriva-hub"))
            .args(["config", "check"])
            .env_clear()
            .envs(variables)
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(check.status.success(), "{values:?}: {}", String::from_utf8_lossy(&check.stderr));
    }
}
