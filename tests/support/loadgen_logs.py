"""Logs as LoadGen 6.0.17 wrote them, of a network made of `sleep`; cut, but word for word."""

SERVER = """\
================================================
MLPerf Results Summary
================================================
SUT name : PySUT
Scenario : Server
Mode     : PerformanceOnly
Completed samples per second    : 190.09
Result is : INVALID
  Performance constraints satisfied : NO
  Min duration satisfied : Yes
  Min queries satisfied : Yes
  Early stopping satisfied: NO
Recommendations:
 * Reduce target QPS to improve latency.
Early Stopping Result:
 * Run unsuccessful.

================================================
Additional Stats
================================================
Scheduled samples per second : 192.43
Min latency (ns)                : 2193243
50.00 percentile latency (ns)   : 6137985
90.00 percentile latency (ns)   : 13556056
99.00 percentile latency (ns)   : 23130667
99.90 percentile latency (ns)   : 26573727

================================================
Test Parameters Used
================================================
samples_per_query : 1
target_qps : 200
target_latency (ns): 15000000

No warnings encountered during test.

No errors encountered during test.
"""

SINGLE_STREAM = """\
================================================
MLPerf Results Summary
================================================
SUT name : PySUT
Scenario : SingleStream
Mode     : PerformanceOnly
90.0th percentile latency (ns) : 5888911
Result is : VALID
  Min duration satisfied : Yes
  Min queries satisfied : Yes
  Early stopping satisfied: Yes
Early Stopping Result:
 * Early stopping 90.0th percentile estimate: 5923412

================================================
Additional Stats
================================================
QPS w/ loadgen overhead         : 204.36
QPS w/o loadgen overhead        : 205.33

50.00 percentile latency (ns)   : 3541650
90.00 percentile latency (ns)   : 5888911
"""

OFFLINE = """\
SUT name : PySUT
Scenario : Offline
Mode     : PerformanceOnly
Samples per second: 873.137
Result is : INVALID
  Min duration satisfied : NO
  Min queries satisfied : Yes
  Early stopping satisfied: Yes
"""

_REST = (
    '"time_ms": 1.0, "namespace": "mlperf::logging", "event_type": "POINT_IN_TIME", '
    '"metadata": {"is_error": false, "is_warning": false, "file": "x.cc", "line_no": 1, '
    '"pid": 1, "tid": 1}}\n'
)
MULTI_STREAM_DETAIL = "".join(
    f':::MLLOG {{"key": "{key}", "value": {value}, {_REST}'
    for key, value in (
        ("loadgen_version", '"6.0.17 @ d6147c7eb7"'),
        ("effective_scenario", '"MultiStream"'),
        ("effective_test_mode", '"PerformanceOnly"'),
        ("effective_samples_per_query", "8"),
        ("effective_min_duration_ms", "200"),
        ("result_validity", '"INVALID"'),
        ("result_min_duration_met", "true"),
        ("result_min_queries_met", "true"),
        ("early_stopping_met", "false"),
        ("result_50.00_percentile_per_query_latency_ns", "2122881"),
        ("result_99.00_percentile_per_query_latency_ns", "5864748"),
        ("result_99.00_percentile_latency_ns", "5864749"),
    )
)

TRACE = """\
{"traceEvents":[
{"name":"Scheduling","ph":"X","pid":25011,"tid":25011,"ts":183.265,"dur":0.063,"args":{}},
{"name":"LogDetail","ph":"X","pid":25011,"tid":25013,"ts":6.1,"dur":1.4,"args":{"key":""loadgen_version""}},
{"name":"Sample","cat":"default","ph":"b","pid":1,"id":0,"ts":200.000,"args":{"sample_seq":0,"query_seq":0,"sample_idx":68,"issue_start_ns":169,"complete_ns":2000000}},
{"name":"Sample","cat":"default","ph":"e", "pid":1,"id":0,"ts":2200.000},
{"name":"Sample","cat":"default","ph":"b","pid":1,"id":1,"ts":200.000,"args":{"sample_seq":1,"query_seq":0,"sample_idx":69,"issue_start_ns":169,"complete_ns":3000000}},
{"name":"Sample","cat":"default","ph":"b","pid":1,"id":2,"ts":10200.000,"args":{"sample_seq":2,"query_seq":1,"sample_idx":70,"issue_start_ns":169,"complete_ns":14000000}},
{"name":"Sample","cat":"default","ph":"b","pid":1,"id":3,"ts":10200.000,"args":{"sample_seq":3,"query_seq":1,"sample_idx":71,"issue_start_ns":169,"complete_ns":13000000}},
"""
