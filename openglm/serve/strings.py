"""The page's strings: English and Chinese, chosen by the browser; a plain text is shown to all."""

STRINGS = {
    "new": ("New chat", "新对话"),
    "search": ("Search chats", "搜索对话"),
    "settings": ("Settings", "设置"),
    "system": ("System text", "系统提示"),
    "tools": ("Tools (OpenAI's JSON form); you write what they return", "工具（OpenAI 的 JSON 形式）；结果由你填写"),
    "temperature": ("Temperature: 0 always takes the likeliest word", "温度：0 表示总取最可能的词"),
    "top_p": ("Top p: likeliest words that are drawn from", "Top p：只从最可能的词中选取"),
    "tokens": ("Longest answer, in tokens", "回答的最大长度（token）"),
    "export": ("Export this chat", "导出本对话"),
    "import": ("Import a chat", "导入对话"),
    "delete": ("Delete this chat and its feedback", "删除本对话及其反馈"),
    "ask": ("Ask something", "说点什么"),
    "web": ("Answer from the sources, with citations", "依据资料回答，并注明出处"),
    "chat_tab": ("Chat", "对话"),
    "fill_tab": ("Fill", "填空"),
    "fill_label": ("A text with blanks: write ___ where words are missing", "带空的文字：缺词的地方写 ___"),
    "fill": ("Fill the blanks", "填空"),
    "filled": ("The likeliest words of each blank, with their chances", "每个空最可能的词及其概率"),
    "dark": ("Dark or light", "深色或浅色"),
    "chats": ("Chats", "对话列表"),
    "talk": ("Conversation", "对话内容"),
    "feedback": ("Feedback", "反馈"),
    "feedback_text": (
        "Thumbs, edited answers and retries are kept on this server with the whole chat. Deleting a chat deletes them.",
        "点赞、点踩、修改过的回答和重新生成都会连同整个对话保存在此服务器上；删除对话时一并删除。",
    ),
    "reason": ("A reason, before you rate an answer", "先写理由，再点赞或点踩"),
    "look": ("What is stored of this chat?", "本对话保存了什么？"),
}

NOTES = {
    "model": "**{0}** · {1} parameters 参数 · {2} tokens 上下文",
    "pace": " · {0:.0f} tokens/s",
    "speed": "{0} tokens · {1:.0f} tokens/s",
    "cut": "⚠️ 最早的 {0} 条消息放不下，没有读 · the {0} oldest messages did not fit and were not read",
    "searching": "正在搜索资料 … · searching the sources …",
    "checking": "正在依据资料作答，引用核对后显示 … · answering from the sources; citations are checked before it is shown …",
    "search": "搜索资料 · search",
    "called": "↪ 模型在调用工具，请写出工具的结果 · the model calls a tool: write what it returns",
    "no_chat": "⚠️ 文件里没有对话 · there is no chat in this file",
    "failed": "⚠️ 出错了 · that failed:",
}

STARTERS = ("给我讲一个小故事", "写一首关于月亮的诗", "Tell me a short story.", "What can you do?")
"""first questions, one click away; a network of a few million parameters answers them well"""

SAMPLE = "She opened the ___ and looked out of the ___."
"""a text with blanks to begin with"""
