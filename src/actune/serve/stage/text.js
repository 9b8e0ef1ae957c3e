// What the page says, in two languages.

const TEXTS = {
  en: {
    stage: "stage", replay: "replay", replayHint: "Recorded answers; there is no model here", who: "Who answers", both: "side by side", tuned: "tuned", base: "base",
    voice: "Voice", voiceHint: "Let the browser speak the words", save: "Save", saveHint: "Save this dialogue, for actune stage --replay",
    fresh: "New", freshHint: "Forget the dialogue and begin anew", question: "Say something…", send: "Send", stop: "Stop", stopHint: "Interrupt (Esc)", try: "Try:",
    actions: "What the body can do now", addHint: "add an action", add: "Add", clear: "Clear", remove: "remove", noActions: "Nothing: it can only talk.",
    cues: "Cue sheet", first: "first word", rate: "tokens/s", prevented: "prevented", preventedHint: "Times the model reached for something that is not on the list, and was held back",
    talk: "Dialogue", keyTitle: "This server wants its key", keyHint: "API key", ok: "OK", noCues: "Words and actions, with the milliseconds at which they came.",
    noTalk: "Nobody has said anything yet.", acts: "acts", interrupted: "interrupted", length: "cut: budget used up", you: "You", thinking: "thinking",
    failed: "The server cannot be reached.", cut: "The answer broke off.", puppet: "Puppet", unmapped: "no picture for this one", fault: "not a script",
  },
  zh: {
    stage: "舞台", replay: "回放", replayHint: "录制的回答, 这里没有模型", who: "由谁回答", both: "同台对比", tuned: "微调后", base: "基座",
    voice: "语音", voiceHint: "让浏览器读出台词", save: "保存", saveHint: "保存这段对话, 可用 actune stage --replay 播放",
    fresh: "重来", freshHint: "忘掉对话, 重新开始", question: "说点什么…", send: "发送", stop: "打断", stopHint: "打断 (Esc)", try: "试试:",
    actions: "此刻能做的动作", addHint: "添加动作", add: "添加", clear: "清空", remove: "移除", noActions: "没有动作: 只能说话。",
    cues: "时间线", first: "首字", rate: "词元/秒", prevented: "拦下", preventedHint: "模型想做列表之外的动作、被拦下的次数",
    talk: "对话", keyTitle: "此服务器需要密钥", keyHint: "API 密钥", ok: "确定", noCues: "台词与动作, 以及到达的毫秒数。",
    noTalk: "还没有人说话。", acts: "动作", interrupted: "被打断", length: "已截断: 长度用尽", you: "你", thinking: "思考中",
    failed: "连不上服务器。", cut: "回答中断了。", puppet: "纸偶", unmapped: "这个动作还没有画面", fault: "不合剧本",
  },
};

let language = (navigator.language || "en").toLowerCase().startsWith("zh") ? "zh" : "en";

export const lang = () => language;
export const t = (key) => TEXTS[language][key];

/** Set the language and write every text that the page holds in it. */
export function setLang(next) {
  language = next;
  document.documentElement.lang = next === "zh" ? "zh-CN" : "en";
  translate(document);
}

/** Write the texts of a part of the page. */
export function translate(root) {
  for (const one of root.querySelectorAll("[data-t]")) one.textContent = t(one.dataset.t);
  for (const one of root.querySelectorAll("[data-title]")) one.title = t(one.dataset.title);
  for (const one of root.querySelectorAll("[data-placeholder]")) one.placeholder = t(one.dataset.placeholder);
}
