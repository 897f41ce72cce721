//! SSH itself: who is let in, and what a client's channels become.
//!
//! A connection's bulk input is held within credit that the client gets through a channel of its
//! own (the subsystem `kvmrkt`): russh opens SSH's own windows again whether or not the input was
//! taken, and waits with the whole connection for a channel that is not read.

use crate::agent::{Agent, Keys, Start, Terminal};
use crate::session::{self, Input, Orders, Output};
use bytes::{Buf, Bytes};
use russh::keys::{Algorithm, PrivateKey, PublicKey};
use russh::server::{Auth, ChannelOpenHandle, Config, Handler, Msg, Session};
use russh::{Channel, ChannelId, ChannelOpenFailure, MethodKind, MethodSet, Preferred, Pty};
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::DuplexStream;
use tokio::net::TcpStream;

/// What a client may send of a channel's input before any of it was taken.
pub const INPUT_BYTES: usize = 256 * 1024;
/// Channels of one connection.
const CHANNELS_MAX: usize = 64;
/// How long a client may take to prove who it is, and to have its first channel.
const LOGIN_SECONDS: u64 = 60;
/// Of SSH's own flow control; the packets are as long as a frame's payload allows.
const WINDOW_BYTES: u32 = 2 << 20;

/// What `russh` is told.
pub fn config(keys: &Keys) -> Result<Arc<Config>, Box<dyn std::error::Error>> {
    let preferred = Preferred {
        kex: Cow::Borrowed(&[
            russh::kex::CURVE25519,
            russh::kex::CURVE25519_PRE_RFC_8731,
            russh::kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
        ]),
        key: Cow::Borrowed(&[Algorithm::Ed25519]),
        cipher: Cow::Borrowed(&[russh::cipher::AES_256_GCM, russh::cipher::AES_256_CTR]),
        compression: Cow::Borrowed(&[russh::compression::NONE]),
        ..Preferred::DEFAULT
    };
    Ok(Arc::new(Config {
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        keys: vec![PrivateKey::from_openssh(&keys.host_key)?],
        window_size: WINDOW_BYTES,
        inactivity_timeout: None,
        max_auth_attempts: 3,
        preferred,
        ..Config::default()
    }))
}

/// Serves one client to its end.
pub async fn serve(config: Arc<Config>, stream: DuplexStream, client: Client) {
    let admitted = Arc::clone(&client.admitted);
    let orders = client.orders.clone();
    if let Ok(running) = russh::server::run_stream(config, stream, client).await {
        let handle = running.handle();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(LOGIN_SECONDS)).await;
            if !*admitted.lock().unwrap_or_else(PoisonError::into_inner) {
                let words = String::from("no login in time");
                let _ = handle.disconnect(russh::Disconnect::ByApplication, words, "".into()).await;
            }
        });
        // How a client leaves is its own business.
        let _ = running.await;
    }
    drop(orders);
}

/// One connection.
pub struct Client {
    agent: Agent,
    key: Option<PublicKey>,
    admitted: Arc<Mutex<bool>>,
    channels: HashMap<ChannelId, Link>,
    orders: Orders,
}

/// A channel, as far as it has come.
struct Link {
    /// Until the program is known.
    output: Option<Output>,
    input: Input,
    terminal: Option<Terminal>,
    is_control: bool,
}

impl Client {
    /// A client that is to prove that it has the key.
    pub fn new(agent: Agent, keys: &Keys) -> Client {
        Client {
            agent,
            key: PublicKey::from_openssh(&keys.client_key).ok(),
            admitted: Arc::default(),
            channels: HashMap::new(),
            orders: Orders::default(),
        }
    }

    fn add(&mut self, channel: Channel<Msg>) -> Input {
        let id = channel.id();
        let (_, writer) = channel.split();
        let input = Input::new(id.number(), self.orders.clone());
        let link = Link {
            output: Some(Output::new(writer)),
            input: input.clone(),
            terminal: None,
            is_control: false,
        };
        self.channels.insert(id, link);
        input
    }
}

/// As `INPUT_BYTES` and the messages of the control channel want it.
fn broken() -> russh::Error {
    russh::Error::Inconsistent
}

impl Handler for Client {
    type Error = russh::Error;

    async fn auth_publickey_offered(
        &mut self,
        _user: &str,
        key: &PublicKey,
    ) -> Result<Auth, Self::Error> {
        let is_it = self.key.as_ref().is_some_and(|own| own.key_data() == key.key_data());
        Ok(if is_it { Auth::Accept } else { Auth::reject() })
    }

    async fn auth_publickey(&mut self, user: &str, key: &PublicKey) -> Result<Auth, Self::Error> {
        self.auth_publickey_offered(user, key).await
    }

    async fn auth_succeeded(&mut self, _session: &mut Session) -> Result<(), Self::Error> {
        *self.admitted.lock().unwrap_or_else(PoisonError::into_inner) = true;
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        if self.channels.len() >= CHANNELS_MAX {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        }
        self.add(channel);
        reply.accept().await;
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _from: &str,
        _from_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        let (true, Ok(port)) = (host == "localhost", u16::try_from(port)) else {
            reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
            return Ok(());
        };
        if self.channels.len() >= CHANNELS_MAX {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        }
        let id = channel.id();
        let input = self.add(channel);
        let Some(output) = self.channels.get_mut(&id).and_then(|link| link.output.take()) else {
            return Err(broken());
        };
        tokio::spawn(async move {
            match connect(port).await {
                Ok(stream) => {
                    reply.accept().await;
                    session::forward(stream, input, output).await;
                }
                Err(_) => reply.reject(ChannelOpenFailure::ConnectFailed).await,
            }
        });
        Ok(())
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        term: &str,
        columns: u32,
        rows: u32,
        _width: u32,
        _height: u32,
        _modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let link = self.channels.get_mut(&channel).ok_or_else(broken)?;
        let name = Some(term.to_owned()).filter(|name| !name.is_empty());
        link.terminal = Some(Terminal { rows: rows as u16, columns: columns as u16, name });
        session.channel_success(channel)
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let link = self.channels.get_mut(&channel).ok_or_else(broken)?;
        let (Ok(mut start), Some(output)) =
            (serde_json::from_slice::<Start>(command), link.output.take())
        else {
            return session.channel_failure(channel);
        };
        start.terminal = link.terminal.take();
        let (agent, input) = (self.agent.clone(), link.input.clone());
        tokio::spawn(session::run(agent, start, input, output, session.handle()));
        Ok(())
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let link = self.channels.get_mut(&channel).ok_or_else(broken)?;
        match link.output.take() {
            Some(output) if name == "kvmrkt" => {
                link.is_control = true;
                session.channel_success(channel)?;
                tokio::spawn(session::tell_credit(self.orders.clone(), output));
                Ok(())
            }
            _ => session.channel_failure(channel),
        }
    }

    async fn window_change_request(
        &mut self,
        channel: ChannelId,
        columns: u32,
        rows: u32,
        _width: u32,
        _height: u32,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        if let Some(link) = self.channels.get(&channel) {
            link.input.resize(rows as u16, columns as u16);
        }
        Ok(())
    }

    async fn data(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        // Data that comes after the channel's end is late.
        let Some(link) = self.channels.get(&channel) else { return Ok(()) };
        if !link.is_control {
            return link.input.push(Bytes::copy_from_slice(data)).map_err(|()| broken());
        }
        let mut rest = data;
        while rest.len() >= 8 {
            let (number, signal) = (rest.get_u32(), rest.get_u32());
            let named = self.channels.iter().find(|(id, _)| id.number() == number);
            if let Some((_, link)) = named {
                link.input.signal(signal as i32);
            }
        }
        if rest.is_empty() { Ok(()) } else { Err(broken()) }
    }

    async fn channel_eof(
        &mut self,
        channel: ChannelId,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        if let Some(link) = self.channels.get(&channel) {
            link.input.end();
        }
        Ok(())
    }

    async fn channel_close(
        &mut self,
        channel: ChannelId,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        if let Some(link) = self.channels.remove(&channel) {
            link.input.close();
        }
        Ok(())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // The connection is gone, in whatever way.
        self.channels.values().for_each(|link| link.input.close());
        self.orders.close();
    }
}

/// The guest's own loopback, by either protocol.
async fn connect(port: u16) -> std::io::Result<TcpStream> {
    match TcpStream::connect(("127.0.0.1", port)).await {
        Err(_) => TcpStream::connect(("::1", port)).await,
        stream => stream,
    }
}
