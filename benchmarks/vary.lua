-- For wrk: every request has a header that no other has, as with trace ids, so that no head equals the one before.
local number = 0

request = function()
  number = number + 1
  wrk.headers["X-Request-Id"] = tostring(number)
  return wrk.format()
end
