//! Moving bytes.

pub mod bulk;
pub mod chunk;
pub mod ahead;
pub mod leg;
pub mod copy;
pub mod counted;
pub mod relay;
pub mod duplex;
pub mod frames;
pub mod link;
pub mod load;
pub mod silence;
pub mod tied;
pub mod tls;
pub mod unread;
