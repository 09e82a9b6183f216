//! Moving bytes.

pub mod bulk;
pub mod chunk;
pub mod leg;
pub mod copy;
pub mod relay;
pub mod movable;
pub mod duplex;
pub mod link;
pub mod tls;
