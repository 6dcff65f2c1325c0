"""An amount of money: integer minor units and an ISO 4217 currency, never a float."""

from typing import Annotated

from pydantic import AfterValidator, Field

from shop_common.events.contract import State

# Currencies people can pay with, as of January 2026: no funds, metals or test codes. A withdrawn code stays here
# for as long as stored events may carry it.
CURRENCIES = frozenset(
    """
    AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF
    CHF CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD
    HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD
    LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK
    PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS
    TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU UZS VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG
    """.split()
)
MAX_AMOUNT = 2**53 - 1
"""The largest integer that every JSON reader keeps exact."""


def _known(code: str) -> str:
    if code not in CURRENCIES:
        raise ValueError("not an ISO 4217 currency code in use")
    return code


Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$"), AfterValidator(_known)]


class Money(State):
    amount: int = Field(ge=0, le=MAX_AMOUNT)
    """In minor units: 1999 is 19.99 EUR, and 1999 JPY."""
    currency: Currency
