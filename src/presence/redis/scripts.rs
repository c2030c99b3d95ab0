//! The keys and Lua scripts of the connection counts. All keys share one hash tag, so that a cluster keeps them on one
//! server and a script may use them together.

use oriva_hub_actors::model::StreamKey;

use crate::redis_client::RedisClient;

/// Sets what a node holds for a stream, unless the sum with what other nodes hold that were heard lately is above the
/// limit.
///
/// Keys: the nodes with the ends of their leases; this node's counts. Arguments: the prefix of the keys of counts, this
/// node, the stream, the total it would hold, all counts it would hold, the limit (negative for none), the lease in ms,
/// the rest of its lease in ms at which a node no longer counts.
/// Returns 1, or 0 where nothing was set.
pub(super) const SET_COUNT: &str = r"
local total = tonumber(ARGV[4])
local limit = tonumber(ARGV[6])
if limit >= 0 then
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now + ARGV[8], '+inf')) do
        if node ~= ARGV[2] then
            local other = redis.call('HGET', ARGV[1] .. node, ARGV[3])
            if other then total = total + tonumber(string.match(other, '^%d+')) end
        end
    end
    if total > limit then return 0 end
end
if tonumber(ARGV[4]) > 0 then
    redis.call('HSET', KEYS[2], ARGV[3], ARGV[5])
    redis.call('PEXPIRE', KEYS[2], ARGV[7])
else
    redis.call('HDEL', KEYS[2], ARGV[3])
end
return 1
";

/// Renews a node's lease.
///
/// Keys: the nodes; this node's counts. Arguments: this node, the lease in ms, the rest of a lease in ms at which a node no
/// longer counts. Returns the number of other nodes that count, or nil where Redis does not know this one any more. The first
/// write is one that a Redis without memory refuses, as it would refuse the next connection's.
pub(super) const RENEW: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not lease or tonumber(lease) <= now or redis.call('HEXISTS', KEYS[2], '') == 0 then return nil end
redis.call('HSET', KEYS[2], '', '0')
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return redis.call('ZCOUNT', KEYS[1], '(' .. now + ARGV[3], '+inf') - 1
";

/// Begins a node's lease under a new name, and ends those of its earlier names. The first write is one that a Redis without
/// memory refuses. The counts get a field with an empty name
/// that is always there: so counts that Redis lost can be told from counts that are empty.
///
/// Keys: the nodes; its counts; the counts under its earlier names. Arguments: its name, the lease in ms, its earlier names.
pub(super) const REGISTER: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[2], '', '0')
redis.call('PEXPIRE', KEYS[2], ARGV[2])
for n = 3, #KEYS do
    redis.call('ZREM', KEYS[1], ARGV[n])
    redis.call('UNLINK', KEYS[n])
end
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
return 1
";

/// The names of the keys.
pub(super) struct KeyNames {
    /// A sorted set: the nodes, with the ends of their leases in ms.
    pub nodes: String,
    /// The prefix of the hashes with the counts.
    pub counts: String,
}

impl KeyNames {
    pub(super) fn new(client: &RedisClient) -> Self {
        Self { nodes: client.name_together("nodes"), counts: client.name_together("connections:") }
    }

    /// The hash with the counts of a node.
    pub(super) fn counts_of(&self, node: &str) -> String {
        format!("{}{node}", self.counts)
    }
}

/// A stream as a field of such a hash.
pub(super) fn field(stream: &StreamKey) -> String {
    format!("{}:{}", stream.kind().as_str(), stream.name())
}
