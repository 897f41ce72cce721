//! JSON-RPC 2.0: requests read, results, errors and notifications written.

use crate::failure::{Failure, Kind};
use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Longest request id that is echoed.
const ID_BYTES_MAX: usize = 128;

/// The id of a request, kept as the host spelled it.
pub type RequestId = Box<RawValue>;

#[derive(Deserialize)]
struct Envelope<'a> {
    jsonrpc: Option<&'a str>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    method: Option<String>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

/// A request whose parameters are not yet interpreted.
#[derive(Debug)]
pub struct Request {
    /// None for a notification, which gets no answer.
    pub id: Option<RequestId>,
    /// For instance `pod.start`.
    pub method: String,
    params: Option<Box<RawValue>>,
}

/// A refusal at the JSON-RPC level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// One of the standard codes.
    pub code: i32,
    /// Why.
    pub message: String,
}

impl Refusal {
    fn new(code: i32, message: impl ToString) -> Refusal {
        Refusal { code, message: message.to_string() }
    }

    /// The method does not exist.
    pub fn unknown_method(method: &str) -> Refusal {
        Refusal::new(-32601, alloc::format!("there is no method {method:?}"))
    }
}

impl Request {
    /// Reads one line.
    pub fn parse(line: &[u8]) -> Result<Request, Refusal> {
        let envelope: Envelope<'_> = serde_json::from_slice(line)
            .map_err(|error| Refusal::new(if error.is_data() { -32600 } else { -32700 }, error))?;
        if envelope.jsonrpc != Some("2.0") {
            return Err(Refusal::new(-32600, "jsonrpc is not \"2.0\""));
        }
        let Some(method) = envelope.method else {
            return Err(Refusal::new(-32600, "the message has no method"));
        };
        if envelope.id.is_some_and(|id| id.get().len() > ID_BYTES_MAX) {
            return Err(Refusal::new(-32600, "the id is too long"));
        }
        let id = envelope.id.map(RawValue::to_owned);
        Ok(Request { id, method, params: envelope.params.map(RawValue::to_owned) })
    }

    /// The parameters as what the method takes; absent ones count as `{}`.
    pub fn params<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        let text = self.params.as_ref().map_or("{}", |params| params.get());
        serde_json::from_str(text)
            .map_err(|error| Refusal::new(-32602, alloc::format!("{}: {error}", self.method)))
    }
}

#[derive(Serialize)]
struct Reply<'a, T> {
    jsonrpc: &'static str,
    id: Option<&'a RawValue>,
    result: &'a T,
}

#[derive(Serialize)]
struct ErrorReply<'a> {
    jsonrpc: &'static str,
    id: Option<&'a RawValue>,
    error: ErrorBody<'a>,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    code: i32,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<ErrorData<'a>>,
}

#[derive(Serialize)]
struct ErrorData<'a> {
    kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<&'a str>,
}

#[derive(Serialize)]
struct Notice<'a, T> {
    jsonrpc: &'static str,
    method: &'a str,
    params: &'a T,
}

fn line<T: Serialize>(message: &T) -> Vec<u8> {
    // Serializing plain structures to memory cannot fail; an empty line would be ignored.
    let mut bytes = serde_json::to_vec(message).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// A successful answer.
pub fn reply<T: Serialize>(id: &RawValue, result: &T) -> Vec<u8> {
    line(&Reply { jsonrpc: "2.0", id: Some(id), result })
}

/// An answer that reports a failure, naming the app it befell.
pub fn failure(id: &RawValue, failure: &Failure, app: Option<&str>) -> Vec<u8> {
    let data = Some(ErrorData { kind: failure.kind, app });
    let error = ErrorBody { code: -32000, message: &failure.message, data };
    line(&ErrorReply { jsonrpc: "2.0", id: Some(id), error })
}

/// An answer that refuses the message itself.
pub fn refusal(id: Option<&RawValue>, refusal: &Refusal) -> Vec<u8> {
    let error = ErrorBody { code: refusal.code, message: &refusal.message, data: None };
    line(&ErrorReply { jsonrpc: "2.0", id, error })
}

/// A notification.
pub fn notice<T: Serialize>(method: &str, params: &T) -> Vec<u8> {
    line(&Notice { jsonrpc: "2.0", method, params })
}

/// Parameters or result `{}`.
#[derive(Debug, Serialize)]
pub struct Empty {}

/// Parameters of `hello`.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "docs/protocol.md defines every field")]
pub struct Hello<'a> {
    pub protocol: u32,
    pub agent: &'a str,
    pub kernel: &'a str,
    pub uptime_ns: u64,
}

/// Parameters of `app.started`.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "docs/protocol.md defines every field")]
pub struct Started<'a> {
    pub name: &'a str,
    pub pid: i32,
    pub time_ns: u64,
}

/// Parameters of `agent.failed`.
#[derive(Debug, Serialize)]
pub struct Failed<'a> {
    /// Why.
    pub message: &'a str,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// It exited with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl End {
    /// Exit code 0.
    pub fn is_success(self) -> bool {
        self == End::Code(0)
    }
}

/// Parameters of `app.exited`.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "docs/protocol.md defines every field")]
pub struct Exited<'a> {
    pub name: &'a str,
    #[serde(flatten)]
    pub end: End,
    pub stopped: bool,
    pub time_ns: u64,
    #[serde(skip_serializing_if = "is_none")]
    pub oom_kills: u64,
}

fn is_none(count: &u64) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_and_its_id_echoed_as_spelled() {
        let request =
            Request::parse(br#"{"jsonrpc":"2.0","id":"a1","method":"pod.halt"}"#).unwrap();
        assert_eq!(request.method, "pod.halt");
        let line = reply(request.id.as_deref().unwrap(), &Empty {});
        assert_eq!(line, b"{\"jsonrpc\":\"2.0\",\"id\":\"a1\",\"result\":{}}\n");
    }

    #[test]
    fn faults_get_the_standard_codes() {
        let code = |text: &str| Request::parse(text.as_bytes()).unwrap_err().code;
        assert_eq!(code("{"), -32700);
        assert_eq!(code("[]"), -32600);
        assert_eq!(code(r#"{"jsonrpc":"1.0","method":"x"}"#), -32600);
        assert_eq!(code(r#"{"jsonrpc":"2.0","id":1}"#), -32600);
        let request =
            Request::parse(br#"{"jsonrpc":"2.0","id":1,"method":"x","params":3}"#).unwrap();
        assert_eq!(request.params::<Vec<u8>>().unwrap_err().code, -32602);
    }

    #[test]
    fn ends_are_spelled_as_in_the_protocol() {
        let exited =
            Exited { name: "a", end: End::Signal(9), stopped: true, time_ns: 5, oom_kills: 0 };
        let text = serde_json::to_string(&exited).unwrap();
        assert_eq!(text, r#"{"name":"a","signal":9,"stopped":true,"time_ns":5}"#);
    }
}
