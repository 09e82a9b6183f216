//! Where the mesh's configuration comes from: each source turns documents into updates.
//!
//! A source never fails because of what a document says: that becomes a condition.

pub mod file;
