-- The replicated tables: what every server knows of every other. This file is the contract of all parts of Kith.
--
-- A table or column may be added (nullable or defaulted); nothing is renamed, retyped or dropped. Columns marked
-- "inherited" are read and written by clients that existed before Kith, under these names, types and defaults.

-- Facts of the cluster as a whole, one row each.
CREATE TABLE cluster_metadata (
    key   TEXT NOT NULL PRIMARY KEY,   -- inherited: name of the fact: cluster_cidr, service_domain, created_at
    value TEXT NOT NULL DEFAULT ''     -- inherited: its value, as text
);

-- The servers of the fleet, each row written by the server itself but for removed_at, draining and labels. A new server's
-- row is entered, with its range, by the server that has the authority's key, so that no two have one number.
CREATE TABLE servers (
    id               TEXT NOT NULL PRIMARY KEY,          -- inherited: the node id, equal to the name in the server's certificate
    hostname         TEXT NOT NULL DEFAULT '',           -- inherited: the host's own name, for people
    subnet           TEXT NOT NULL DEFAULT '',           -- inherited: the server's range, 10.210.N.0/24
    wireguard_ip     TEXT NOT NULL DEFAULT '',           -- inherited: the server's address inside the mesh
    wireguard_pubkey TEXT NOT NULL DEFAULT '',           -- inherited: WireGuard public key, base64
    management_ip    TEXT NOT NULL DEFAULT '',           -- inherited: fdcc + first 14 bytes of SHA-256 of the key, /128
    endpoints        TEXT NOT NULL DEFAULT '[]',         -- inherited: JSON array of "ip:port", most useful first
    last_seen        INTEGER NOT NULL DEFAULT 0,         -- inherited: ms since 1970 by the owner's clock; shown, never compared
    removed_at       INTEGER,                            -- inherited: ms since 1970 of the operator's removal; NULL while the server belongs
    region           TEXT NOT NULL DEFAULT '',           -- region code, for {region}.APP names
    labels           TEXT NOT NULL DEFAULT '{}',         -- JSON object of the operator's labels
    draining         INTEGER NOT NULL DEFAULT 0,         -- 1 while the operator keeps new work away: out of answers, still connected
    boot_id          TEXT NOT NULL DEFAULT '',           -- the kernel's boot id at the first full container list after a boot
    release          TEXT NOT NULL DEFAULT ''            -- the version of Kith that wrote the row
);

-- The services that exist; a name is known while its row is here.
CREATE TABLE services (
    project   TEXT NOT NULL,                             -- inherited: the project the service belongs to
    name      TEXT NOT NULL,                             -- inherited: the service's name within the project
    ports     TEXT NOT NULL DEFAULT '[]',                -- JSON array of {"name","proto","port"}, for SRV
    ttl       INTEGER,                                   -- seconds its answers may be kept; NULL: the zone's
    fail_open INTEGER NOT NULL DEFAULT 0,                -- 1: with nothing healthy, answer all rather than none
    PRIMARY KEY (project, name)
);

-- The containers, each row written by the server it runs on.
CREATE TABLE containers (
    id                   TEXT NOT NULL PRIMARY KEY,      -- inherited: Docker's id, 64 or at least 12 hex digits
    service              TEXT NOT NULL DEFAULT '',       -- inherited: the service's name
    server_id            TEXT NOT NULL DEFAULT '',       -- inherited: servers.id of its host
    ip                   TEXT NOT NULL DEFAULT '',       -- inherited: its IPv4 address
    started_at           INTEGER NOT NULL DEFAULT 0,     -- inherited: ms since 1970; the newest of a slot answers
    instance_id          TEXT,                           -- inherited: the slot it fills; NULL counts as one slot
    health_status        TEXT DEFAULT 'healthy',         -- inherited: healthy, degraded, unhealthy or unknown
    last_health_check    INTEGER DEFAULT 0,              -- inherited: ms since 1970 of the last check that was written
    consecutive_failures INTEGER DEFAULT 0,              -- inherited: failed checks in a row
    health_port          INTEGER,                        -- inherited: TCP port that is checked; NULL: none
    project              TEXT NOT NULL DEFAULT '',       -- the project; empty: that of the one service of its name
    ip6                  TEXT NOT NULL DEFAULT '',       -- its IPv6 address
    ports                TEXT NOT NULL DEFAULT '[]',     -- JSON array of {"name","proto","port"}, before the service's
    draining             INTEGER NOT NULL DEFAULT 0,     -- 1: out of answers, still running
    image                TEXT NOT NULL DEFAULT '',       -- the image's name, for people
    health_reason        TEXT NOT NULL DEFAULT ''        -- why health_status is what it is
);

-- The NATS servers, each row written by the server it runs on.
CREATE TABLE nats_servers (
    id            TEXT NOT NULL PRIMARY KEY,             -- the nats-server's name
    cluster       TEXT NOT NULL DEFAULT '',              -- the cluster's name, an APP in DNS
    role          TEXT NOT NULL DEFAULT '',              -- center or leaf
    server_id     TEXT NOT NULL DEFAULT '',              -- servers.id of its host
    region        TEXT NOT NULL DEFAULT '',              -- region code
    ip            TEXT NOT NULL DEFAULT '',              -- IPv4 address of its listeners
    ip6           TEXT NOT NULL DEFAULT '',              -- IPv6 address of its listeners
    client_port   INTEGER NOT NULL DEFAULT 0,            -- port for clients; 0: not listening, as with the next three
    route_port    INTEGER NOT NULL DEFAULT 0,            -- port for servers of the same cluster
    gateway_port  INTEGER NOT NULL DEFAULT 0,            -- port for other clusters
    leaf_port     INTEGER NOT NULL DEFAULT 0,            -- port for leaf nodes
    health_status TEXT DEFAULT 'healthy',                -- the process is live; says nothing of the cluster having formed
    started_at    INTEGER NOT NULL DEFAULT 0             -- ms since 1970
);
