//! The messages of `istio.v1.auth.IstioCertificateService`, and its one method.
//!
//! Names and numbers are those of Istio's `security/v1alpha1/ca.proto`.

use std::collections::BTreeMap;
use std::time::Duration;

use http::uri::PathAndQuery;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use tokio::time::timeout;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

/// The method that signs.
const METHOD: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

/// For whom a node's agent asks, in the request's metadata: not for itself.
const IMPERSONATED: &str = "ImpersonatedIdentity";

/// `IstioCertificateRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CertificateRequest {
    /// A signing request, PEM.
    #[prost(string, tag = "1")]
    csr: String,
    /// How long the certificate should be valid, in seconds.
    #[prost(int64, tag = "3")]
    validity_duration: i64,
    /// Further facts for the authority.
    #[prost(message, optional, tag = "4")]
    metadata: Option<Struct>,
}

/// `IstioCertificateResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CertificateResponse {
    /// The leaf first, what is between it and the root, and the roots last; each PEM.
    #[prost(string, repeated, tag = "1")]
    pub(super) cert_chain: Vec<String>,
}

impl CertificateRequest {
    /// Asks to sign for `identity`, a SPIFFE ID.
    pub(super) fn new(csr: String, validity_duration: i64, identity: String) -> Self {
        let value = Value { kind: Some(Kind::StringValue(identity)) };
        let fields = BTreeMap::from([(IMPERSONATED.to_owned(), value)]);
        Self { csr, validity_duration, metadata: Some(Struct { fields }) }
    }
}

/// Asks the authority. It has `patience` for all of it: an authority that takes the connection and then
/// says nothing, not even in TLS, is one that does not answer.
pub(super) async fn create_certificate(
    channel: Channel,
    request: Request<CertificateRequest>,
    max_answer_bytes: usize,
    patience: Duration,
) -> Result<CertificateResponse, Status> {
    let asking = async {
        let mut client = Grpc::new(channel).max_decoding_message_size(max_answer_bytes);
        client.ready().await.map_err(|error| Status::from_error(error.into()))?;
        let codec = ProstCodec::<CertificateRequest, CertificateResponse>::default();
        let answer = client.unary(request, PathAndQuery::from_static(METHOD), codec).await?;
        Ok(answer.into_inner())
    };
    let late = |_elapsed| Err(Status::deadline_exceeded("it does not answer"));
    timeout(patience, asking).await.unwrap_or_else(late)
}
