"""What msgspec finds wrong with a body, in Russian.

msgspec speaks English only, in few words, and with no way to ask for others. So its sentences are
read and said again; one that is not known here is left as it is.
"""

from __future__ import annotations

import re
from typing import Final

_MALFORMED: Final = re.compile(r"JSON is malformed: (.+) \(byte (\d+)\)")
_SENTENCES: Final = {
    r"Input data was truncated": "Тело запроса обрывается",
    r"Expected (`\w+`), got (`\w+`)(.*)": r"Ожидается \1, а пришло \2\3",
    r"Expected (`\w+`) of length ([<>]= \d+)(.*)": r"Ожидается \1 длиной \2\3",
    r"Expected (`\w+`) ([<>]= -?\d+)(.*)": r"Ожидается \1 \2\3",
    r"Object contains unknown field (`.*`)(.*)": r"Неизвестное поле \1\2",
    r"Object missing required field (`.*`)(.*)": r"Нет обязательного поля \1\2",
    r"(?:Integer value|Number) out of range(.*)": r"Число вне допустимых границ\1",
    r"Expected (`datetime`) with a timezone component(.*)": r"Ожидается \1 с часовым поясом\2",
    r"Invalid RFC3339 encoded datetime(.*)": r"Это не дата и время по RFC 3339\1",
    r"Invalid enum value (.+?)( - at .*|)": r"Недопустимое значение \1\2",
}
_OF_JSON: Final = {
    "trailing characters": "лишнее после конца",
    "trailing comma in object": "лишняя запятая в объекте",
    "trailing comma in array": "лишняя запятая в массиве",
    "object keys must be strings": "имена полей должны быть строками",
    "invalid number": "неверное число",
    "invalid utf-16 surrogate pair": "неверная суррогатная пара",
    "invalid escape character in string": "неверное экранирование в строке",
    "invalid character in unicode escape": "неверный знак в экранировании Unicode",
    "invalid character": "недопустимый знак",
}


def in_russian(sentence: str) -> str:
    """One of msgspec's sentences, said in Russian."""
    malformed = _MALFORMED.fullmatch(sentence)
    if malformed:
        return f"Это не JSON: {_fault_of_json(malformed[1])} (байт {malformed[2]})"
    for pattern, russian in _SENTENCES.items():
        match = re.fullmatch(pattern, sentence, re.DOTALL)
        if match:
            return match.expand(russian).replace(" - at `$", " — в `$")
    return sentence


def _fault_of_json(fault: str) -> str:
    expected = re.fullmatch(r"expected (.+)", fault)
    if expected:
        return "ожидается " + expected[1].replace(" or ", " или ")
    return _OF_JSON.get(fault, fault)
