//! A handshake, by rustls, and what is left for a [`Stream`] when it is over.
//!
//! rustls is given one record at a time, and nothing that comes after the last one of the handshake:
//! that is the stream's, tickets too.

use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::{Buf as _, BytesMut};
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::server::{Acceptor, ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, ExtractedSecrets, ServerConfig};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::io::tls::record;
use crate::io::tls::stream::{Keys, Stream};

/// Room for what comes in a handshake: a certificate chain or two.
const READ_BYTES: usize = 4 * 1024;

/// The types of records: from `change_cipher_spec` to `application_data` (RFC 8446, appendix B.1).
const TYPES: RangeInclusive<u8> = 20..=23;

/// One side of a handshake.
pub trait Side {
    /// The side's state in rustls.
    type Data;

    /// Takes what has come, and says what to do.
    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    /// The parameters that were negotiated.
    fn common(&self) -> &CommonState;

    /// The keys, and what makes the next ones.
    ///
    /// # Errors
    ///
    /// The handshake is not over.
    fn finish(self) -> Result<(ExtractedSecrets, Keys), rustls::Error>;
}

/// A connection whose handshake is over, and whose peer nobody has looked at yet.
#[must_use = "the peer must be looked at"]
pub struct Shaken<S, Io> {
    /// Large, and carried by futures that wait.
    side: Box<S>,
    io: Io,
    rest: BytesMut,
}

/// A client that has said what it wants.
#[must_use = "it waits for an answer"]
pub struct Hello<Io> {
    io: Io,
    input: BytesMut,
    name: Option<String>,
}

/// Makes a handshake as a client.
///
/// # Errors
///
/// Those of the socket; or the peer does not speak TLS 1.3 with us, which rustls' error says.
pub async fn connect<Io>(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    io: Io,
) -> io::Result<Shaken<UnbufferedClientConnection, Io>>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let side = UnbufferedClientConnection::new(config, name).map_err(invalid)?;
    Shaken::make(Box::new(side), io, BytesMut::new()).await
}

/// Waits for what a client says first.
///
/// # Errors
///
/// Those of the socket; or what came is no hello of TLS, and the client was told so.
pub async fn hello<Io>(mut io: Io) -> io::Result<Hello<Io>>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let mut input = BytesMut::with_capacity(READ_BYTES);
    let mut acceptor = Acceptor::default();
    let mut seen = 0;
    loop {
        if io.read_buf(&mut input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // It is only looked at here, for the name; the handshake reads it again.
        let mut new = input.get(seen..).unwrap_or_default();
        while !new.is_empty() {
            acceptor.read_tls(&mut new)?;
        }
        seen = input.len();
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(hello)) => {
                let name = hello.client_hello().server_name().map(str::to_owned);
                return Ok(Hello { io, input, name });
            }
            Err((error, mut alert)) => {
                let mut last = Vec::new();
                alert.write_all(&mut last)?;
                // A peer that is gone needs no answer.
                let _gone: io::Result<()> = io.write_all(&last).await;
                return Err(invalid(error));
            }
        }
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Hello<Io> {
    /// The name that the client asks for (RFC 6066, section 3).
    pub fn server_name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Goes on with the handshake.
    ///
    /// # Errors
    ///
    /// Those of the socket; or the peer does not speak TLS 1.3 with us, which rustls' error says.
    pub async fn accept(
        self,
        config: Arc<ServerConfig>,
    ) -> io::Result<Shaken<UnbufferedServerConnection, Io>> {
        let side = UnbufferedServerConnection::new(config).map_err(invalid)?;
        Shaken::make(Box::new(side), self.io, self.input).await
    }
}

/// The step that rustls waits for.
enum Next {
    /// A record.
    Read,
    /// Its output is to be sent.
    Write,
    /// Nothing: it is over.
    Done,
    /// More of its own.
    Again,
    /// It has failed.
    Failed(rustls::Error),
}

impl<S: Side, Io: AsyncRead + AsyncWrite + Unpin> Shaken<S, Io> {
    async fn make(mut side: Box<S>, mut io: Io, mut input: BytesMut) -> io::Result<Self> {
        // How much of the input rustls was given: whole records, unless it is no TLS.
        let mut given = 0;
        let mut output = Vec::new();
        loop {
            let (used, next) = step(&mut *side, input.get_mut(..given), &mut output);
            input.advance(used);
            given -= used;
            match next {
                Next::Again => {}
                Next::Done if side.common().is_handshaking() => {
                    return Err(invalid(rustls::Error::HandshakeNotComplete));
                }
                Next::Done => return Ok(Self { side, io, rest: input }),
                Next::Write => {
                    io.write_all(&output).await?;
                    output.clear();
                }
                Next::Read => given += another(&mut io, &mut input, given).await?,
                Next::Failed(error) => {
                    // It may have left an alert. It must be asked for no more than that: after an
                    // error it would take the same input again, and it relies on its being there.
                    while side.common().wants_write() {
                        let (used, _) = step(&mut *side, input.get_mut(..given), &mut output);
                        input.advance(used);
                        given -= used;
                    }
                    let _gone: io::Result<()> = io.write_all(&output).await;
                    return Err(invalid(error));
                }
            }
        }
    }

    /// The parameters that were negotiated, and the certificates that the peer has shown.
    pub fn session(&self) -> &CommonState {
        self.side.common()
    }

    /// The stream by which data is sent and received.
    ///
    /// # Errors
    ///
    /// rustls does not give the keys: a configuration without `enable_secret_extraction`.
    pub fn into_stream(self) -> io::Result<Stream<Io>> {
        let suite = self.side.common().negotiated_cipher_suite();
        let suite = suite.ok_or(rustls::Error::HandshakeNotComplete).and_then(record::suite);
        let suite = suite.map_err(invalid)?;
        let (secrets, keys) = (*self.side).finish().map_err(invalid)?;
        Stream::new(self.io, self.rest, suite, secrets, keys).map_err(invalid)
    }
}

/// Lets rustls go on; says how much of the input it needs no more.
fn step<S: Side>(side: &mut S, input: Option<&mut [u8]>, output: &mut Vec<u8>) -> (usize, Next) {
    let UnbufferedStatus { discard, state } = side.process(input.unwrap_or_default());
    let next = match state {
        Ok(ConnectionState::BlockedHandshake) => Next::Read,
        Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, output),
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Next::Write
        }
        Ok(ConnectionState::WriteTraffic(_)) => Next::Done,
        // An orderly end in the middle of a handshake.
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
            Next::Failed(rustls::Error::HandshakeNotComplete)
        }
        Ok(_) => Next::Failed(rustls::Error::General("data came before its time".into())),
        Err(error) => Next::Failed(error),
    };
    (discard, next)
}

fn encode<Data>(data: &mut EncodeTlsData<'_, Data>, output: &mut Vec<u8>) -> Next {
    let before = output.len();
    let mut room = READ_BYTES;
    loop {
        output.resize(before + room, 0);
        match data.encode(output.get_mut(before..).unwrap_or_default()) {
            Ok(length) => {
                output.truncate(before + length);
                return Next::Again;
            }
            Err(EncodeError::InsufficientSize(needed)) => room = needed.required_size,
            Err(EncodeError::AlreadyEncoded) => {
                output.truncate(before);
                return Next::Again;
            }
        }
    }
}

/// Reads until there is one more record, and says how long it is. Input that is no TLS is given as it is:
/// rustls says what is wrong with it.
async fn another<Io>(io: &mut Io, input: &mut BytesMut, given: usize) -> io::Result<usize>
where
    Io: AsyncRead + Unpin,
{
    loop {
        let new = input.get(given..).unwrap_or_default();
        let is_tls = new.first().is_none_or(|kind| TYPES.contains(kind));
        match record::length(new) {
            Ok(Some(length)) if is_tls && length <= new.len() => return Ok(length),
            Ok(_) if is_tls => {}
            _ => return Ok(new.len()),
        }
        input.reserve(READ_BYTES);
        if io.read_buf(input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// As tokio-rustls says it: `identity::verify::peer_error` finds what is about identities.
pub(super) fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }

    fn common(&self) -> &CommonState {
        self
    }

    fn finish(self) -> Result<(ExtractedSecrets, Keys), rustls::Error> {
        let (secrets, keys): (_, KernelConnection<_>) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, Keys::Client(keys)))
    }
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }

    fn common(&self) -> &CommonState {
        self
    }

    fn finish(self) -> Result<(ExtractedSecrets, Keys), rustls::Error> {
        let (secrets, keys): (_, KernelConnection<_>) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, Keys::Server(keys)))
    }
}

impl<S, Io> fmt::Debug for Shaken<S, Io> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shaken").finish_non_exhaustive()
    }
}

impl<Io> fmt::Debug for Hello<Io> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hello").field("name", &self.name).finish_non_exhaustive()
    }
}
