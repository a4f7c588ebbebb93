//! Kith's DNS: zone, answers, server; fed by one stream of rows and members.
