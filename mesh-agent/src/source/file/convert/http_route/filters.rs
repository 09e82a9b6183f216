//! Changes and actions of a rule or a backend on the way.

use crate::model::condition::Reason;
use crate::model::http::{Filter, Kind, Mirror};

use super::super::super::schema;
use super::super::super::yaml::printable;
use super::super::{Problems, refs};
use super::{Context, change, cors, value};

/// The most filters of a rule or backend (Gateway API, `HTTPRouteRule.filters`).
const MAX_FILTERS: usize = 16;

/// The type that a filter says it is (Gateway API, `HTTPRouteFilterType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    RequestHeaders,
    ResponseHeaders,
    Mirror,
    Extension,
    Redirect,
    Rewrite,
    Cors,
    ExternalAuth,
}

/// The types of filters. The first four are those of a `GRPCRoute` (`GRPCRouteFilterType`).
const TYPES: &[(&str, Type)] = &[
    ("RequestHeaderModifier", Type::RequestHeaders),
    ("ResponseHeaderModifier", Type::ResponseHeaders),
    ("RequestMirror", Type::Mirror),
    ("ExtensionRef", Type::Extension),
    ("RequestRedirect", Type::Redirect),
    ("URLRewrite", Type::Rewrite),
    ("CORS", Type::Cors),
    ("ExternalAuth", Type::ExternalAuth),
];

/// How many of [`TYPES`] a `GRPCRoute` may have.
const N_GRPC_TYPES: usize = 4;

/// The filters of a rule.
pub(super) fn rule(
    path: &str,
    written: &[schema::Filter],
    context: Context<'_>,
    problems: &mut Problems,
) -> Vec<Filter> {
    let types = types(path, written, context.kind, problems);
    convert(path, written, &types, context, problems)
}

/// The filters of a backend. Those that answer before there is a backend cannot be there.
pub(super) fn backend(
    path: &str,
    written: &[schema::Filter],
    context: Context<'_>,
    problems: &mut Problems,
) -> Vec<Filter> {
    let types = types(path, written, context.kind, problems);
    for (i, filter) in types.iter().enumerate() {
        match filter {
            Some(Type::Redirect) => {
                let message = "a redirect is the answer, so no request goes to this backend; make \
                               it a filter of the rule and remove backendRefs";
                problems.refuse(format!("{path}[{i}]"), Reason::IncompatibleFilters, message);
            }
            Some(Type::Cors) => {
                let message = "a preflight is answered before a backend is chosen; make this a \
                               filter of the rule";
                problems.refuse(format!("{path}[{i}]"), Reason::UnsupportedValue, message);
            }
            _ => {}
        }
    }
    convert(path, written, &types, context, problems)
}

/// The type of each filter, and the errors of them together.
fn types(
    path: &str,
    written: &[schema::Filter],
    kind: Kind,
    problems: &mut Problems,
) -> Vec<Option<Type>> {
    let written = value::at_most(MAX_FILTERS, written, path, "filters", problems);
    let known = match kind {
        Kind::Grpc => TYPES.get(..N_GRPC_TYPES).unwrap_or(TYPES),
        Kind::Http => TYPES,
    };
    let mut types = Vec::with_capacity(written.len());
    for (i, filter) in written.iter().enumerate() {
        let path = format!("{path}[{i}]");
        let one = value::word(&format!("{path}.type"), known, &filter.kind, problems);
        let may_repeat = matches!(one, Some(Type::Mirror | Type::Extension) | None);
        if !may_repeat && types.contains(&one) {
            let kind = printable(&filter.kind);
            let message = format!("{kind} is written before; make one of the two");
            problems.invalid(path.clone(), message);
        }
        let other = match one {
            Some(Type::Redirect) => Some(Type::Rewrite),
            Some(Type::Rewrite) => Some(Type::Redirect),
            _ => None,
        };
        if other.is_some() && types.contains(&other) {
            let message = "a request is either redirected or rewritten; remove one of the filters";
            problems.refuse(path, Reason::IncompatibleFilters, message);
        }
        types.push(one);
    }
    types
}

fn convert(
    path: &str,
    written: &[schema::Filter],
    types: &[Option<Type>],
    context: Context<'_>,
    problems: &mut Problems,
) -> Vec<Filter> {
    let mut filters = Vec::with_capacity(written.len());
    for (i, (written, kind)) in written.iter().zip(types).enumerate() {
        let Some(kind) = kind else { continue };
        filters.extend(filter(&format!("{path}[{i}]"), written, *kind, context, problems));
    }
    filters
}

fn filter(
    path: &str,
    written: &schema::Filter,
    kind: Type,
    context: Context<'_>,
    problems: &mut Problems,
) -> Option<Filter> {
    let field = field(path, written, kind, problems)?;
    let path = format!("{path}.{field}");
    match kind {
        Type::RequestHeaders => {
            let written = written.request_header_modifier.as_ref()?;
            Some(Filter::RequestHeaders(change::headers(&path, written, problems)))
        }
        Type::ResponseHeaders => {
            let written = written.response_header_modifier.as_ref()?;
            Some(Filter::ResponseHeaders(change::headers(&path, written, problems)))
        }
        Type::Mirror => mirror(&path, written.request_mirror.as_ref()?, context, problems),
        Type::Redirect => {
            let written = written.request_redirect.as_ref()?;
            change::redirect(&path, written, problems).map(Filter::Redirect)
        }
        Type::Rewrite => {
            let written = written.url_rewrite.as_ref()?;
            change::rewrite(&path, written, problems).map(Filter::Rewrite)
        }
        Type::Cors => Some(Filter::Cors(cors::convert(&path, written.cors.as_ref()?, problems))),
        Type::ExternalAuth => {
            let message = "requests are not authorized by others here, so all that this is for are \
                           answered with an error; write an AuthorizationPolicy, or remove it";
            problems.note(path, Reason::UnsupportedValue, message);
            Some(Filter::Unresolved("ExternalAuth".to_owned()))
        }
        Type::Extension => {
            let schema::ExtensionRef { group, kind, name } = written.extension_ref.as_ref()?;
            let what = printable(&format!("{kind}.{group} {name}"));
            let message = format!(
                "there are no filters by reference here, so all requests that `{what}` is for are \
                 answered with an error; remove it"
            );
            problems.note(path, Reason::InvalidKind, message);
            Some(Filter::Unresolved(what))
        }
    }
}

/// The field that a filter of this type has, if it is there and no other one is.
fn field(
    path: &str,
    written: &schema::Filter,
    kind: Type,
    problems: &mut Problems,
) -> Option<&'static str> {
    let fields = [
        ("requestHeaderModifier", Type::RequestHeaders, written.request_header_modifier.is_some()),
        (
            "responseHeaderModifier",
            Type::ResponseHeaders,
            written.response_header_modifier.is_some(),
        ),
        ("requestMirror", Type::Mirror, written.request_mirror.is_some()),
        ("requestRedirect", Type::Redirect, written.request_redirect.is_some()),
        ("urlRewrite", Type::Rewrite, written.url_rewrite.is_some()),
        ("cors", Type::Cors, written.cors.is_some()),
        ("externalAuth", Type::ExternalAuth, written.external_auth.is_some()),
        ("extensionRef", Type::Extension, written.extension_ref.is_some()),
    ];
    let mut own = None;
    for (field, its, is_there) in fields {
        if its == kind && is_there {
            own = Some(field);
        } else if its == kind {
            let message = format!("the filter has no `{field}`, as its type says; add it");
            problems.invalid(path, message);
        } else if is_there {
            let message = "this is of another type of filters; remove it, or correct `type`";
            problems.invalid(format!("{path}.{field}"), message);
        }
    }
    own
}

fn mirror(
    path: &str,
    written: &schema::RequestMirror,
    context: Context<'_>,
    problems: &mut Problems,
) -> Option<Filter> {
    let share = match (&written.percent, &written.fraction) {
        (None, None) => Some((100, 100)),
        (Some(percent), None) => {
            let percent = u32::try_from(*percent).ok().filter(|percent| *percent <= 100);
            if percent.is_none() {
                let message = "this is not a share of requests; write a number from 0 to 100";
                problems.invalid(format!("{path}.percent"), message);
            }
            percent.map(|percent| (percent, 100))
        }
        (None, Some(fraction)) => {
            let numerator = u32::try_from(fraction.numerator).ok();
            let denominator = u32::try_from(fraction.denominator.unwrap_or(100)).ok();
            let share = numerator.zip(denominator).filter(|(n, of)| *of > 0 && n <= of);
            if share.is_none() {
                let message = "this is not a share of requests; write a denominator of 1 or more, \
                               and a numerator from 0 to that";
                problems.invalid(format!("{path}.fraction"), message);
            }
            share
        }
        (Some(_), Some(_)) => {
            let message = "a share is given as a percentage or as a fraction; remove one of them";
            problems.invalid(format!("{path}.fraction"), message);
            None
        }
    };
    let reference = (&written.backend_ref).into();
    let backend = refs::backend(&format!("{path}.backendRef"), &reference, context.route, problems);
    let ((service, port), (numerator, denominator)) = backend.zip(share)?;
    Some(Filter::Mirror(Mirror { service, port, numerator, denominator }))
}
