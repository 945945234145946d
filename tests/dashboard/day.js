// Views as the server tells them, of a service that changes its mind, says much, and greets anew now and then.
globalThis.feedDay = (status, decision, from, count) => {
  const wall_time = "2026-01-01T00:00:00Z";
  for (let number = from; number < from + count; number++) {
    const at_ms = number * 200;
    const label = "l" + ((number >> 3) % 7);
    const view = { silent_s: 0, decision: { ...decision, seq: number, label }, points: [] };
    for (let one = 0; one < 6; one++) {
      view.points.push([at_ms + one * 33, 0.5 + (number % 50) / 100, 1 + (number % 97)]);
    }
    if (number % 5 === 0) view.status = { ...status, seq: number, uptime_s: number / 5 };
    if (number % 8 === 0) {
      const source = number % 3 ? "model" : "safe";
      view.turns = [{ number, at_ms, wall_time, label, source, reason: "r" + number }];
    }
    if (number % 10 === 0) view.lines = [{ number, time: wall_time, level: "INFO", text: "line " + number }];
    dashboard.take(number % 100000 ? "view" : "hello", view);
    if (number % 2000 === 0) dashboard.render();
  }
  dashboard.render();
  return dashboard.sizes();
};
