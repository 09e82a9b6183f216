//! HTTP: a server that echoes what it was asked, and a client that reports what it was answered.
//!
//! HTTP/1.1 is our own (`mesh_tests::http::wire`), because tests look at what libraries hide; HTTP/2
//! is the `h2` crate's.

mod ask;
mod ask_http1;
mod ask_http2;
mod reading;
mod reply;
mod serve;
mod serve_http1;
mod serve_http2;

pub(crate) use ask::run;
pub(crate) use serve::run as serve;

use std::io;

use bytes::Bytes;
use mesh_tests::http::Fields;

/// Reads the next part of a body of HTTP/2. `None`: its end.
async fn data(body: &mut h2::RecvStream) -> io::Result<Option<Bytes>> {
    let Some(data) = body.data().await else { return Ok(None) };
    let data = data.map_err(broken)?;
    body.flow_control().release_capacity(data.len()).map_err(broken)?;
    Ok(Some(data))
}

/// The fields after a body of HTTP/2.
async fn trailers(body: &mut h2::RecvStream) -> io::Result<Fields> {
    let trailers = body.trailers().await.map_err(broken)?;
    Ok(trailers.map(|trailers| fields(&trailers)).unwrap_or_default())
}

/// The error of `h2`, as one of the errors that are reported.
fn broken(error: h2::Error) -> io::Error {
    let said = error.to_string();
    error.into_io().unwrap_or_else(|| io::Error::other(said))
}

/// Fields in the form that is reported.
fn fields(map: &http::HeaderMap) -> Fields {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    map.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

/// Fields in the form that `h2` takes.
fn map(fields: &[(String, String)]) -> io::Result<http::HeaderMap> {
    let mut map = http::HeaderMap::new();
    for (name, value) in fields {
        let name: http::HeaderName = name.parse().map_err(io::Error::other)?;
        map.append(name, value.parse().map_err(io::Error::other)?);
    }
    Ok(map)
}
