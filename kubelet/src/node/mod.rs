//! The node's own object: registration, status, lease. `facts` reads the machine, `status` is pure.

pub(crate) mod admission;
pub(crate) mod facts;
pub(crate) mod lease;
pub(crate) mod status;
pub(crate) mod sync;
