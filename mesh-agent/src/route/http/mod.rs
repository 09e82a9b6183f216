//! Decisions of HTTP routes about one request: which rule, which backend, what is changed (pure).

pub mod cookie;
pub mod cors;
pub mod fields;
pub mod headers;
pub mod mirror;
pub mod redirect;
pub mod rewrite;

mod compile;
mod find;
mod precedence;
mod query;
mod share;

pub use self::compile::compile;
pub use self::find::{Found, RequestView, find};
pub use self::share::{backend, place};

#[cfg(test)]
mod tests;
