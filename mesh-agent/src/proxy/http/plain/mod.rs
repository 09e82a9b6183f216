//! Plain requests of HTTP/1.1 to rules that do nothing but choose a backend: most of all requests.
//!
//! Their heads are read where they are, and go on as they were written, but for lines that are about
//! one connection; bodies are passed on, and no task, map or message is made. hyper costs several
//! times as much. A request that is not plain is hyper's: [`serve`] gives the connection to it with what
//! was read, and does not look at it again.

mod answering;
pub mod buffer;
pub mod choose;
pub mod chunks;
pub mod exchange;
pub mod head;
pub mod rest;
pub mod serve;
pub mod wires;
