//! Certificates: who a node is, and who may speak to it.
