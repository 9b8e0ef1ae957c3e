// From an action's name to what the puppet does: stage.yaml's `actions`, then its `rules`, then its `default`.

/** Tell whether a pattern, in which * stands for anything, fits a name. */
export function fits(pattern, name) {
  const parts = pattern.split("*").map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  return new RegExp(`^${parts.join(".*")}$`, "su").test(name);
}

/** Return the look of an action; `known` is false where only the default is left. */
export function lookup(mapping, name) {
  if (Object.hasOwn(mapping.actions, name)) return { ...mapping.actions[name], known: true };
  const rule = mapping.rules.find((one) => one.match.some((pattern) => fits(pattern, name)));
  return rule ? { ...rule, known: true } : { ...mapping.default, known: false };
}
