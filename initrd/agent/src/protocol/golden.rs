//! The golden messages of `tests/protocol/`, which the host's tests read too.

use super::message::{self, End, Exited, Hello, Request, Started};
use super::spec::{AppSpec, OnFailure, PodSpec, StreamMode};
use super::validate;
use crate::lines::{self, Origin};
use serde_json::Value;

fn messages(name: &str) -> Vec<Value> {
    let path = format!("{}/../../tests/protocol/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let content: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    content["messages"].as_array().unwrap().clone()
}

fn request(message: &Value) -> Request {
    Request::parse(&serde_json::to_vec(message).unwrap()).unwrap()
}

fn parsed(line: &[u8]) -> Value {
    assert_eq!(line.last(), Some(&b'\n'));
    serde_json::from_slice(line).unwrap()
}

#[test]
fn pod_specs_are_read() {
    let specs: Vec<PodSpec> =
        messages("pod-start").iter().map(|message| request(message).params().unwrap()).collect();
    for spec in &specs {
        validate::pod(spec).unwrap();
    }
    let [full, minimal] = &specs[..] else { panic!("two messages") };
    assert_eq!((full.apps.len(), full.disks.len(), full.volumes.len()), (3, 3, 2));
    assert_eq!(full.on_failure, OnFailure::Stop);
    assert!(full.volumes[1].initialize && !full.volumes[0].initialize);
    assert_eq!(full.apps[0].limits.cpu_millis, Some(500));
    assert_eq!(full.sysctls, ["net.core.somaxconn=512"]);
    assert_eq!(full.apps[1].stdin, StreamMode::Tty);
    assert_eq!(full.network.as_ref().unwrap().routes[0].gateway.as_deref(), Some("172.16.28.1"));
    assert_eq!(minimal.on_failure, OnFailure::Continue);
    assert!(minimal.network.is_none() && minimal.share.is_none());
}

#[test]
fn requests_are_known() {
    let methods: Vec<String> =
        messages("requests").iter().map(|message| request(message).method).collect();
    assert_eq!(methods, crate::requests::METHODS[1..]);
    let add = messages("requests").into_iter().find(|message| message["method"] == "app.add");
    let spec: AppSpec = request(&add.unwrap()).params().unwrap();
    validate::app(&spec).unwrap();
}

#[test]
fn notifications_are_written_alike() {
    let expected = messages("notifications");
    let hello = Hello { protocol: 1, agent: "0.1.0", kernel: "6.12.1", uptime_ns: 400_000_000 };
    let time_ns = 1_700_000_000_000_000_000;
    let started = Started { name: "redis", pid: 7, time_ns };
    let exited = |end, stopped, time_ns| Exited {
        name: "redis",
        end,
        stopped,
        time_ns,
        oom_kills: u64::from(end == End::Signal(9)),
    };
    let written = [
        message::notice("hello", &hello),
        message::notice("app.started", &started),
        message::notice("app.exited", &exited(End::Code(7), false, time_ns + 1)),
        message::notice("app.exited", &exited(End::Signal(9), true, time_ns + 2)),
        message::notice("pod.exited", &message::Empty {}),
        message::notice(
            "agent.failed",
            &message::Failed { message: "the host sent a line above 4 MiB" },
        ),
        message::notice("ssh.ended", &message::Empty {}),
    ];
    for (line, expected) in written.iter().zip(&expected) {
        assert_eq!(parsed(line), *expected);
    }
    assert_eq!(written.len(), expected.len());
}

#[test]
fn records_are_written_alike() {
    let origin = |stream| Origin {
        time_ns: 1_700_000_000_000_000_000,
        uptime_ns: 400_000_000,
        app: "redis",
        pid: 7,
        stream,
    };
    let written = [
        lines::record(&origin("stdout"), b"Ready to accept connections", false),
        lines::record(&origin("stderr"), b"hi \xff", false),
        lines::record(&origin("stdout"), b"the start of a long line", true),
        crate::log_port::END.to_vec(),
    ];
    for (line, expected) in written.iter().zip(messages("log-records")) {
        assert_eq!(parsed(line), expected);
    }
}

#[test]
fn rule_breakers_are_refused() {
    for case in messages("refused-specs") {
        let message = serde_json::json!({
            "jsonrpc": "2.0", "id": 1, "method": "pod.start", "params": case["params"],
        });
        let found = match request(&message).params::<PodSpec>() {
            Err(refusal) => Value::from(refusal.code),
            Ok(spec) => serde_json::to_value(validate::pod(&spec).unwrap_err().kind).unwrap(),
        };
        assert_eq!(found, case["expect"], "{case}");
    }
}
