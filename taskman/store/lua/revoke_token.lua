-- revoke_token: ends a token, and tells every server; changes no run.
-- KEYS[1] shard prefix
-- ARGV[1] now, epoch ms   ARGV[2] id of the token
-- Reply: 1 when there was such a token else 0
-- Safe to repeat: the second time there is none.
local found = call('HDEL', P .. 'tokens', ARGV[2])
call('HDEL', P .. 'token-uses', ARGV[2])
if found == 1 then announce('token', ARGV[2], 'revoked') end
flush()
return found
