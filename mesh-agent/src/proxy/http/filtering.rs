//! Filters, applied to a request.

use hyper::header::{HOST, HeaderValue, LOCATION};
use hyper::http::{request, uri};
use hyper::{Response, StatusCode, Uri, Version as HttpVersion};

use crate::model::http::{Filter, Rewrite, Scheme};
use crate::model::snapshot::Backend;
use crate::proxy::http::answer::{Reason, Refusal};
use crate::proxy::http::body::{self, Body};
use crate::proxy::http::decide::After;
use crate::proxy::http::detect::Version;
use crate::proxy::http::mirror;
use crate::route::http as route;
use crate::route::http::{cors, headers, redirect, rewrite};

/// The facts that filters need.
pub struct Filtering<'a> {
    /// The version that the client speaks.
    pub version: Version,
    /// The rule, for people.
    pub at: &'a str,
    /// The path as it came.
    pub path: &'a str,
    /// The prefix of it that has matched.
    pub prefix: Option<&'a str>,
    /// The service's port.
    pub port: u16,
    /// The service's hostname.
    pub service: &'a str,
    /// The actions on the answer.
    pub after: After,
    /// To whom copies go.
    pub mirrors: Vec<mirror::Copy>,
}

impl Filtering<'_> {
    /// Applies filters in their order; an answer, if one of them has it.
    ///
    /// # Errors
    ///
    /// A filter that cannot be applied: it is never left out.
    pub fn apply(
        &mut self,
        filters: &[Filter],
        mirrors: &mut dyn Iterator<Item = &Backend>,
        head: &mut request::Parts,
    ) -> Result<Option<Response<Body>>, Refusal> {
        for filter in filters {
            match filter {
                Filter::RequestHeaders(change) => headers::apply(change, &mut head.headers),
                Filter::ResponseHeaders(change) => self.after.changes.push(change.clone()),
                Filter::Mirror(mirror) => {
                    let backend = mirrors.next();
                    if route::mirror::picks(mirror, rand::random()) {
                        self.mirrors
                            .extend(backend.and_then(|to| mirror::Copy::of(to, self.version)));
                    }
                }
                Filter::Redirect(redirect) => {
                    let url = redirect::RequestUrl {
                        scheme: Scheme::Http,
                        host: authority(head).unwrap_or(self.service),
                        path: self.path,
                        query: head.uri.query(),
                    };
                    let location = redirect::location(redirect, &url, self.prefix, self.port);
                    let mut response = Response::new(body::empty());
                    *response.status_mut() = redirect.status;
                    let location =
                        HeaderValue::from_str(&location).map_err(|_invalid| Refusal {
                            reason: Reason::Unresolved,
                            details: format!("{}: the redirect has no valid location", self.at),
                        })?;
                    response.headers_mut().insert(LOCATION, location);
                    self.after.apply(response.headers_mut());
                    return Ok(Some(response));
                }
                Filter::Rewrite(change) => self.rewrite(change, head)?,
                Filter::Cors(rules) => {
                    if let Some(allowed) = cors::preflight(rules, &head.method, &head.headers) {
                        let mut response = Response::new(body::empty());
                        *response.status_mut() = StatusCode::NO_CONTENT;
                        *response.headers_mut() = allowed;
                        return Ok(Some(response));
                    }
                    let origin = cors::origin(rules, &head.headers);
                    self.after.cors = Some((rules.clone(), origin));
                }
                Filter::Unresolved(what) => {
                    let details = format!("{}: {what} is not known here", self.at);
                    return Err(Refusal { reason: Reason::Unresolved, details });
                }
            }
        }
        Ok(None)
    }

    fn rewrite(&self, change: &Rewrite, head: &mut request::Parts) -> Result<(), Refusal> {
        let mut parts = std::mem::take(&mut head.uri).into_parts();
        if let Some(path) = &change.path {
            let query = parts.path_and_query.as_ref().and_then(uri::PathAndQuery::query);
            let mut path = rewrite::path(path, self.path, self.prefix);
            if let Some(query) = query {
                path.push('?');
                path.push_str(query);
            }
            let path = path.parse().map_err(|error| Refusal {
                reason: Reason::TooLarge,
                details: format!("{}: the rewritten path is not valid: {error}", self.at),
            })?;
            parts.path_and_query = Some(path);
        }
        if let Some(host) = &change.hostname {
            if parts.authority.is_some() {
                let authority = uri::Authority::try_from(host.as_bytes());
                parts.authority = Some(authority.map_err(|error| Refusal {
                    reason: Reason::Unresolved,
                    details: format!("{}: the rewritten host is not valid: {error}", self.at),
                })?);
            }
            if head.version < HttpVersion::HTTP_2 {
                head.headers.insert(HOST, host.clone());
            }
        }
        head.uri = Uri::from_parts(parts).map_err(|error| Refusal {
            reason: Reason::Unresolved,
            details: format!("{}: the rewritten path is not valid: {error}", self.at),
        })?;
        Ok(())
    }
}

/// The authority of a request. `None` of one that names nobody (RFC 9110, section 7.2: an empty `Host`).
fn authority(head: &request::Parts) -> Option<&str> {
    let host = || head.headers.get(HOST).and_then(|host| host.to_str().ok());
    let asked = head.uri.authority().map(uri::Authority::as_str).or_else(host);
    asked.filter(|host| !host.is_empty() && !host.starts_with(':'))
}
