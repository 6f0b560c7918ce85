#!/usr/bin/awk -f
# Adds up the tables that several runs of the simulation printed.
BEGIN { FS = "|" }
{
  name = $2; value = $3
  gsub(/^ +| +$/, "", name); gsub(/[ *]/, "", value)
  if (!(name in sum)) order[++n] = name
  if (name == "simulated time") { # 1h2m3s
    h = m = s = 0
    if (match(value, /[0-9]+h/)) h = substr(value, RSTART, RLENGTH - 1)
    if (match(value, /[0-9]+m/)) m = substr(value, RSTART, RLENGTH - 1)
    if (match(value, /[0-9]+s/)) s = substr(value, RSTART, RLENGTH - 1)
    value = h * 3600 + m * 60 + s
  }
  sum[name] += value
}
END {
  print "| what | how often |\n|---|---|"
  for (i = 1; i <= n; i++) {
    v = sum[order[i]]
    if (order[i] == "simulated time") v = sprintf("%.1f h", v / 3600)
    printf "| %s | %s |\n", order[i], v
  }
}
