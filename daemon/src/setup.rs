//! Setting up what is the host's own, once and by hand: Docker's name servers, and the host's; and putting it back. Whatever is
//! changed is remembered with what was there before ([`undo`]).

pub mod docker;
pub mod host;
pub mod left;
pub mod undo;
