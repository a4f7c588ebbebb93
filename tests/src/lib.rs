//! The lab: whole processes, end to end, faults; and the rules of the tree.
